package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/cache"
)

var alpine = cache.Repo{Upstream: "docker.io", Name: "library/alpine"}

// manifestOf returns an image manifest with these layers.
func manifestOf(layers ...blob) cache.Manifest {
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%064d","size":2},"layers":[`, types.OCIManifestSchema1, 0)
	for i, l := range layers {
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = fmt.Appendf(raw, `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}`, l.digest, len(l.data))
	}
	raw = append(raw, "]}"...)
	return cache.Manifest{Repo: alpine, Raw: raw, Digest: digestOf(raw), MediaType: types.OCIManifestSchema1}
}

func reopen(t *testing.T, s *cache.Store, o cache.Options) *cache.Store {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return open(t, o)
}

func TestManifestOutlivesTheProcess(t *testing.T) {
	o := cache.Options{Dir: t.TempDir()}
	s := open(t, o)
	layer := randomBlob(20, 1000)
	m := manifestOf(layer)
	m.Tag = "3.20"
	s.PutManifest(m)
	check := func(s *cache.Store) {
		t.Helper()
		raw, err := s.Manifest(m.Digest)
		if err != nil || string(raw) != string(m.Raw) {
			t.Errorf("Manifest = %q, %v", raw, err)
		}
		if mt, ok := s.ManifestType(alpine, m.Digest); !ok || mt != m.MediaType {
			t.Errorf("ManifestType = %q, %v", mt, ok)
		}
		tag, ok := s.Tag(alpine, "3.20")
		if !ok || tag.Digest != m.Digest || tag.MediaType != m.MediaType || time.Since(tag.Checked) > time.Minute {
			t.Errorf("Tag = %+v, %v", tag, ok)
		}
		if size, ok := s.Linked(alpine, layer.digest); !ok || size != 1000 {
			t.Errorf("Linked = %d, %v; want 1000", size, ok)
		}
		other := cache.Repo{Upstream: "docker.io", Name: "library/busybox"}
		if _, ok := s.Linked(other, layer.digest); ok {
			t.Error("another repository has a link too")
		}
		if _, ok := s.ManifestType(other, m.Digest); ok {
			t.Error("another repository has the manifest too")
		}
	}
	check(s)
	s = reopen(t, s, o)
	check(s)
	if all, err := s.Manifests(alpine); err != nil || len(all) != 1 || all[0].Size != int64(len(m.Raw)) {
		t.Errorf("Manifests = %v, %v", all, err)
	}
}

func TestRottenManifestIsRemoved(t *testing.T) {
	o := cache.Options{Dir: t.TempDir()}
	s := open(t, o)
	m := manifestOf()
	s.PutManifest(m)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Dir, "blobs", "sha256", m.Digest.Hex)
	if err := os.WriteFile(path, append([]byte(" "), m.Raw[1:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if raw, err := s.Manifest(m.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Manifest = %q, %v; want fs.ErrNotExist", raw, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rotten file: %v", err)
	}
}

// TestLostIndex: whatever becomes of the index, the store opens, serves, and knows its links.
func TestLostIndex(t *testing.T) {
	rows := map[string]func(dir string) error{
		"kept":    func(string) error { return nil },
		"deleted": os.RemoveAll,
		"a file": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, []byte("x"), 0o600))
		},
		"truncated": func(dir string) error { return os.Truncate(filepath.Join(dir, "snapshot"), 10) },
		"garbage": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "snapshot"), []byte("garbage"), 0o600)
		},
	}
	for name, lose := range rows {
		t.Run(name, func(t *testing.T) {
			o := cache.Options{Dir: t.TempDir()}
			s := open(t, o)
			b := randomBlob(21, 2000)
			s.PutManifest(manifestOf(b))
			mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
			if err := s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := lose(filepath.Join(o.Dir, "index")); err != nil {
				t.Fatal(err)
			}
			s = open(t, o)
			if size, ok := s.Linked(alpine, b.digest); !ok || size != 2000 {
				t.Errorf("at once: Linked = %d, %v", size, ok)
			}
			mustPull(t, s, b, &source{key: "gone"}, 0, -1)
			eventually(t, func() bool { return s.Stats().IndexLoaded })
			if size, ok := s.Linked(alpine, b.digest); !ok || size != 2000 {
				t.Errorf("after the rebuild: Linked = %d, %v", size, ok)
			}
		})
	}
}

// TestDamagedIndex: damage at 60 places, and what was pulled is served all the same.
func TestDamagedIndex(t *testing.T) {
	o := cache.Options{Dir: t.TempDir()}
	s := open(t, o)
	b := randomBlob(22, 2000)
	m := manifestOf(b)
	m.Tag = "v1"
	s.PutManifest(m)
	for i := range 50 {
		other := cache.Repo{Upstream: "docker.io", Name: fmt.Sprintf("library/r%d", i)}
		s.Link(other, randomBlob(uint64(i), 10).digest)
	}
	mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	snapshot := filepath.Join(o.Dir, "index", "snapshot")
	good, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		bad := bytes.Clone(good)
		at := rng.IntN(len(bad))
		bad[at] ^= byte(1 + rng.IntN(255))
		if i%10 == 9 {
			bad = bad[:at]
		}
		if err := os.WriteFile(snapshot, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, o)
		mustPull(t, s, b, &source{key: "gone"}, 0, -1)
		eventually(t, func() bool { return s.Stats().IndexLoaded })
		if size, ok := s.Linked(alpine, b.digest); !ok || size != 2000 {
			t.Errorf("damage at %d: Linked = %d, %v", at, size, ok)
		}
		if tag, ok := s.Tag(alpine, "v1"); !ok || tag.Digest != m.Digest {
			t.Errorf("damage at %d: Tag = %v, %v", at, tag, ok)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("damage at %d: %v", at, err)
		}
	}
}

// TestLeastRecentlyUsedGoes: the cap is kept, and what is in use or was used last stays.
func TestLeastRecentlyUsedGoes(t *testing.T) {
	const size = 100_000
	o := cache.Options{Dir: t.TempDir(), Size: func(int64) int64 { return 10 * size }}
	s := open(t, o)
	var blobs []blob
	for i := range 20 {
		b := randomBlob(uint64(100+i), size)
		blobs = append(blobs, b)
		mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
		settled(t, s)
		if held := s.Stats().BytesHeld; held > 10*size {
			t.Fatalf("after %d blobs %d bytes are held", i+1, held)
		}
		if i > 0 {
			mustPull(t, s, blobs[0], &source{key: "gone"}, 0, -1) // keep using the first
		}
	}
	if _, state := s.State(blobs[0].digest); state != cache.Here {
		t.Error("what is used all the time was evicted")
	}
	if _, state := s.State(blobs[1].digest); state != cache.Absent {
		t.Error("what was used longest ago is still here")
	}
	if st := s.Stats(); st.Evicted < 10 || st.EvictedBytes != st.Evicted*size {
		t.Errorf("stats %+v", st)
	}
}

// TestSizeIsCountedAgain: after a restart with a smaller cap the surplus goes.
func TestSizeIsCountedAgain(t *testing.T) {
	o := cache.Options{Dir: t.TempDir()}
	s := open(t, o)
	for i := range 10 {
		b := randomBlob(uint64(200+i), 10_000)
		mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1)
	}
	o.Size = func(int64) int64 { return 50_000 }
	s = reopen(t, s, o)
	eventually(t, func() bool { st := s.Stats(); return st.Evicted > 0 && st.BytesHeld <= 50_000 })
	if st := s.Stats(); st.Blobs != st.BytesHeld/10_000 || st.Blobs < 4 {
		t.Errorf("stats %+v", st)
	}
}

func TestOneDaemonAtATime(t *testing.T) {
	o := cache.Options{Dir: t.TempDir()}
	s := open(t, o)
	if _, err := cache.Open(o); !errors.Is(err, cache.ErrLocked) {
		t.Fatalf("a second Open: %v, want ErrLocked", err)
	}
	if err := s.Detach(context.Background()); err != nil {
		t.Fatal(err)
	}
	second := open(t, o)
	b := randomBlob(30, 5000)
	mustPull(t, s, b, &source{key: "a", blob: b}, 0, -1) // passed through
	if _, state := second.State(b.digest); state != cache.Absent {
		t.Error("a detached store has written into the folder")
	}
}

// settled waits until no fill runs.
func settled(t *testing.T, s *cache.Store) {
	t.Helper()
	eventually(t, func() bool { return s.Stats().Fills == 0 })
}

// eventually polls what has no channel to wait on.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("this did not happen within 10 s")
		}
	}
}

func digestOf(raw []byte) v1.Hash {
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		panic(err)
	}
	return h
}
