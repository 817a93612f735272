package refs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/entrepot/entrepot/cache/refs"
)

var (
	alpine  = refs.Repo{Upstream: "docker.io", Name: "library/alpine"}
	checked = time.Date(2025, 3, 4, 5, 6, 7, 0, time.UTC)
)

// digest is a made-up digest, different for each n.
func digest(n int) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)} }

func digest512(n int) v1.Hash { return v1.Hash{Algorithm: "sha512", Hex: fmt.Sprintf("%0128x", n)} }

func open(t *testing.T) (*refs.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "refs")
	d, err := refs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return d, path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTag(t *testing.T) {
	d, path := open(t)
	if _, ok := d.Tag(alpine, "3.20"); ok {
		t.Error("a tag in an empty folder")
	}
	want := refs.Tag{Digest: digest(1), MediaType: types.OCIImageIndex, Checked: checked}
	must(t, d.SetTag(alpine, "3.20", want))
	check := func(d *refs.Dir, want refs.Tag) {
		t.Helper()
		got, ok := d.Tag(alpine, "3.20")
		got.Checked = got.Checked.UTC()
		if !ok || got != want {
			t.Errorf("Tag = %v %v, want %v", got, ok, want)
		}
	}
	check(d, want)

	want.Digest, want.MediaType = digest512(2), ""
	must(t, d.SetTag(alpine, "3.20", want))
	check(d, want)

	want.Checked = checked.Add(time.Hour)
	must(t, d.Touch(alpine, "3.20", want.Checked))
	again, err := refs.Open(path)
	must(t, err)
	check(again, want)

	must(t, d.DropTag(alpine, "3.20"))
	must(t, d.DropTag(alpine, "3.20"))
	if _, ok := d.Tag(alpine, "3.20"); ok {
		t.Error("a dropped tag is still there")
	}
	if err := d.Touch(alpine, "3.20", checked); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Touch of no tag: %v, want fs.ErrNotExist", err)
	}
}

func TestSetTagWithoutATimeMeansNow(t *testing.T) {
	d, _ := open(t)
	before := time.Now().Add(-2 * time.Second) // a file system's clock is coarse
	must(t, d.SetTag(alpine, "v1", refs.Tag{Digest: digest(1)}))
	if got, _ := d.Tag(alpine, "v1"); got.Checked.Before(before) || got.Checked.After(time.Now().Add(2*time.Second)) {
		t.Errorf("checked at %v", got.Checked)
	}
}

func TestTagsAreLexicalAndOnlyOfTheirRepository(t *testing.T) {
	d, _ := open(t)
	below := refs.Repo{Upstream: "docker.io", Name: "library/alpine/extra"}
	for _, tag := range []string{"b", "A", "1", "_", "a.b", "a", strings.Repeat("x", 128)} {
		must(t, d.SetTag(alpine, tag, refs.Tag{Digest: digest(1)}))
	}
	must(t, d.SetTag(below, "other", refs.Tag{Digest: digest(1)}))
	got, err := d.Tags(alpine)
	must(t, err)
	if diff := cmp.Diff([]string{"1", "A", "_", "a", "a.b", "b", strings.Repeat("x", 128)}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := d.Tags(refs.Repo{Upstream: "docker.io", Name: "nobody"}); err != nil || len(got) != 0 {
		t.Errorf("unknown repository: %v %v", got, err)
	}
}

func TestManifests(t *testing.T) {
	d, _ := open(t)
	must(t, d.AddManifest(alpine, digest(2), types.OCIManifestSchema1))
	must(t, d.AddManifest(alpine, digest(1), types.OCIImageIndex))
	must(t, d.AddManifest(alpine, digest512(3), types.DockerManifestList))
	must(t, d.AddManifest(alpine, digest(2), types.DockerManifestSchema2))
	got, err := d.Manifests(alpine)
	must(t, err)
	want := []v1.Descriptor{
		{Digest: digest(1), MediaType: types.OCIImageIndex},
		{Digest: digest(2), MediaType: types.DockerManifestSchema2},
		{Digest: digest512(3), MediaType: types.DockerManifestList},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, ok := d.ManifestType(refs.Repo{Upstream: "quay.io", Name: alpine.Name}, digest(1)); ok {
		t.Error("one upstream's manifest is seen through another")
	}
	must(t, d.DropManifest(alpine, digest(1)))
	must(t, d.DropManifest(alpine, digest(1)))
	if _, ok := d.ManifestType(alpine, digest(1)); ok {
		t.Error("a dropped manifest is still there")
	}
}

func TestRepos(t *testing.T) {
	d, path := open(t)
	want := []refs.Repo{
		{Upstream: "127.0.0.1:5000", Name: "a"}, {Upstream: "127.0.0.1:5000", Name: "a/b"},
		{Upstream: "[::1]:80", Name: "x"}, alpine,
	}
	for i, r := range want {
		if i%2 == 0 {
			must(t, d.SetTag(r, "v1", refs.Tag{Digest: digest(i)}))
		} else {
			must(t, d.AddManifest(r, digest(i), types.OCIImageIndex))
		}
	}
	for _, odd := range []string{"_pins/x/_tags", "UPPER/x/_tags", "docker.io/Bad/_tags", "docker.io/_tags", "docker.io/library/empty"} {
		must(t, os.MkdirAll(filepath.Join(path, odd), 0o700))
	}
	must(t, os.Symlink("..", filepath.Join(path, "docker.io", "loop")))
	must(t, os.WriteFile(filepath.Join(path, "docker.io", "file"), nil, 0o600))
	var got []refs.Repo
	for r, err := range d.Repos() {
		must(t, err)
		got = append(got, r)
	}
	slices.SortFunc(got, func(a, b refs.Repo) int { return strings.Compare(a.String(), b.String()) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	n := 0
	for range d.Repos() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("the walk did not stop")
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 256)
	hosts := map[string]bool{
		"docker.io": true, "localhost": true, "127.0.0.1:5000": true, "[::1]:5000": true, "[fe80::1]": true, "reg_1.local": true,
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com": true,
		"": false, ".": false, "..": false, "a..b": false, "Docker.io": false, "a/b": false, "a\x00": false, "_tmp": false,
		"a:": false, "a:b": false, "a:123456": false, "a:1:2": false, "-a": false, "a-": false, ".a": false, "a.": false,
		"[]": false, "[::1": false, "[::1]x": false, "[::1]:": false, "[a/b]": false, "[": false, "ä.de": false, long: false,
	}
	names := map[string]bool{
		"a": true, "a/b/c": true, "a.b": true, "a_b": true, "a__b": true, "a-b": true, "a---b": true, "0": true, strings.Repeat("a", 255): true,
		"": false, "/": false, "/a": false, "a/": false, "a//b": false, "..": false, "a/../b": false, "a/.": false, "A": false, "a___b": false,
		"a..b": false, "a._b": false, "a-_b": false, "-a": false, "a-": false, "_tags": false, "a/_manifests": false, "a\\b": false, "a b": false,
		"a\x00b": false, "a\n": false, "ä": false, long: false, strings.Repeat("a/", 127) + "aa": false,
	}
	tags := map[string]bool{
		"latest": true, "_": true, "V1.0-rc_1": true, strings.Repeat("T", 128): true, "sha256-" + strings.Repeat("0", 64): true,
		"": false, ".": false, "..": false, ".hidden": false, "-x": false, "a/b": false, "a:b": false, "a\x00": false, "ä": false,
		strings.Repeat("T", 129): false, "a b": false,
	}
	d, path := open(t)
	before := tree(t, path)
	try := func(kind, what string, ok bool, r refs.Repo, tag string) {
		t.Helper()
		err := d.SetTag(r, tag, refs.Tag{Digest: digest(1)})
		_, read := d.Tag(r, tag)
		if ok != (err == nil) || ok == errors.Is(err, refs.ErrName) || read != ok {
			t.Errorf("%s %q: SetTag: %v, read back: %v; want it taken: %v", kind, what, err, read, ok)
		}
		if ok {
			must(t, d.DropTag(r, tag))
		}
	}
	for h, ok := range hosts {
		try("host", h, ok, refs.Repo{Upstream: h, Name: "a"}, "t")
	}
	for n, ok := range names {
		try("name", n, ok, refs.Repo{Upstream: "h", Name: n}, "t")
	}
	for tag, ok := range tags {
		try("tag", tag, ok, refs.Repo{Upstream: "h", Name: "a"}, tag)
	}
	if diff := cmp.Diff(before, tree(t, path)); diff != "" {
		t.Errorf("files left behind: %s", diff)
	}
}

func TestDigestsAndMediaTypes(t *testing.T) {
	d, _ := open(t)
	for _, bad := range []v1.Hash{
		{}, {Algorithm: "sha256"}, {Algorithm: "md5", Hex: strings.Repeat("0", 32)}, {Algorithm: "sha256", Hex: strings.Repeat("0", 63)},
		{Algorithm: "sha256", Hex: strings.Repeat("A", 64)}, {Algorithm: "sha512", Hex: strings.Repeat("0", 64)},
		{Algorithm: "sha256", Hex: "../" + strings.Repeat("0", 61)}, {Algorithm: "../sha256", Hex: strings.Repeat("0", 64)},
	} {
		if err := d.AddManifest(alpine, bad, types.OCIImageIndex); !errors.Is(err, refs.ErrName) {
			t.Errorf("AddManifest(%v): %v", bad, err)
		}
		if err := d.SetTag(alpine, "t", refs.Tag{Digest: bad}); !errors.Is(err, refs.ErrName) {
			t.Errorf("SetTag(%v): %v", bad, err)
		}
		if _, ok := d.ManifestType(alpine, bad); ok {
			t.Errorf("ManifestType(%v)", bad)
		}
	}
	for _, bad := range []types.MediaType{"a b", "a\n", "a\x00", "ä", types.MediaType(strings.Repeat("m", 256))} {
		if err := d.SetTag(alpine, "t", refs.Tag{Digest: digest(1), MediaType: bad}); !errors.Is(err, refs.ErrName) {
			t.Errorf("SetTag(%q): %v", bad, err)
		}
	}
	long := types.MediaType(strings.Repeat("m", 255))
	must(t, d.AddManifest(alpine, digest512(1), long))
	if mt, ok := d.ManifestType(alpine, digest512(1)); !ok || mt != long {
		t.Errorf("the longest media type came back as %q", mt)
	}
}

// TestRandomDamage: whatever happens to the files, what is read is what was written or nothing, and writing heals it.
func TestRandomDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	d, path := open(t)
	want := refs.Tag{Digest: digest(7), MediaType: types.OCIImageIndex, Checked: checked}
	tag := filepath.Join(path, "docker.io/library/alpine/_tags/v1")
	manifest := filepath.Join(path, "docker.io/library/alpine/_manifests", "sha256-"+digest(7).Hex)
	for range 400 {
		must(t, d.SetTag(alpine, "v1", want))
		must(t, d.AddManifest(alpine, digest(7), types.OCIImageIndex))
		damage(t, rng, tag)
		damage(t, rng, manifest)
		tags, err := d.Tags(alpine)
		must(t, err)
		got, ok := d.Tag(alpine, "v1")
		if ok && (got.Digest != want.Digest || got.MediaType != want.MediaType) {
			t.Fatalf("a damaged file was believed: %v", got)
		}
		if ok != slices.Contains(tags, "v1") {
			t.Fatalf("Tag says %v, Tags %v", ok, tags)
		}
		mt, ok := d.ManifestType(alpine, digest(7))
		if ok && mt != types.OCIImageIndex {
			t.Fatalf("a damaged file was believed: %v", mt)
		}
		all, err := d.Manifests(alpine)
		if err != nil || (len(all) == 1) != ok {
			t.Fatalf("ManifestType says %v, Manifests %v %v", ok, all, err)
		}
	}
}

func damage(t *testing.T, rng *rand.Rand, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	switch rng.IntN(4) {
	case 0:
		b = b[:rng.IntN(len(b))]
	case 1:
		b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
	case 2:
		b = append(b, make([]byte, 1+rng.IntN(5000))...)
	case 3:
		clear(b[rng.IntN(len(b)):])
	}
	must(t, os.WriteFile(path, b, 0o600))
}

func TestGarbageInPlaceOfFiles(t *testing.T) {
	d, path := open(t)
	tags := filepath.Join(path, "docker.io/library/alpine/_tags")
	must(t, d.SetTag(alpine, "good", refs.Tag{Digest: digest(1)}))
	must(t, os.Mkdir(filepath.Join(tags, "folder"), 0o700))
	must(t, syscall.Mkfifo(filepath.Join(tags, "pipe"), 0o600))
	must(t, os.Symlink("nowhere", filepath.Join(tags, "dangling")))
	b, err := os.ReadFile(filepath.Join(tags, "good"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(tags, "copied"), b, 0o600))
	must(t, os.WriteFile(filepath.Join(tags, ".hidden"), b, 0o600))
	got, err := d.Tags(alpine)
	must(t, err)
	if diff := cmp.Diff([]string{"good"}, got); diff != "" {
		t.Error(diff)
	}
	must(t, os.WriteFile(filepath.Join(path, "docker.io/library/alpine/_manifests"), nil, 0o600))
	if all, err := d.Manifests(alpine); err != nil || len(all) != 0 {
		t.Errorf("a file in place of the folder: %v %v", all, err)
	}
}

func TestOpenRemovesLeftovers(t *testing.T) {
	d, path := open(t)
	must(t, d.SetTag(alpine, "v1", refs.Tag{Digest: digest(1)}))
	left := filepath.Join(path, "_tmp", "123")
	must(t, os.WriteFile(left, []byte("torn"), 0o600))
	d, err := refs.Open(path)
	must(t, err)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("leftover: %v", err)
	}
	must(t, os.RemoveAll(filepath.Join(path, "_tmp")))
	must(t, d.SetTag(alpine, "v2", refs.Tag{Digest: digest(1)}))
	if _, ok := d.Tag(alpine, "v2"); !ok {
		t.Error("no tag after the folder for temporary files was removed")
	}
}

// TestFailedWriteChangesNothing: a folder that can't be replaced makes SetTag fail and leaves no temporary file.
func TestFailedWriteChangesNothing(t *testing.T) {
	d, path := open(t)
	must(t, os.MkdirAll(filepath.Join(path, "docker.io/library/alpine/_tags/v1/x"), 0o700))
	before := tree(t, path)
	if err := d.SetTag(alpine, "v1", refs.Tag{Digest: digest(1)}); err == nil {
		t.Error("SetTag replaced a folder")
	}
	if diff := cmp.Diff(before, tree(t, path)); diff != "" {
		t.Error(diff)
	}
}

// TestConcurrentWriters: readers only ever see a whole value of one of the writers.
func TestConcurrentWriters(t *testing.T) {
	d, path := open(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				r := refs.Repo{Upstream: "h", Name: fmt.Sprintf("a%d", i%5)}
				if err := d.SetTag(r, "t", refs.Tag{Digest: digest(w), MediaType: types.MediaType(fmt.Sprint(w))}); err != nil {
					t.Error(err)
				}
				got, ok := d.Tag(r, "t")
				if writer, err := strconv.Atoi(string(got.MediaType)); !ok || err != nil || got.Digest != digest(writer) {
					t.Errorf("read %v %v", got, ok)
				}
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(filepath.Join(path, "_tmp")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// tree lists the regular files below path.
func tree(t *testing.T, path string) []string {
	t.Helper()
	files := []string{}
	must(t, filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, p)
		}
		return err
	}))
	return files
}

// FuzzName: no name leads out of the folder, and what is taken comes back.
func FuzzName(f *testing.F) {
	f.Add("docker.io", "library/alpine", "latest")
	f.Add("..", "../..", "..")
	f.Add("[::1]:5000", "a/_tags", "a/b\x00")
	f.Add("h", "a_____b", "_")
	f.Fuzz(func(t *testing.T, host, name, tag string) {
		root := t.TempDir()
		d, err := refs.Open(filepath.Join(root, "refs"))
		must(t, err)
		r := refs.Repo{Upstream: host, Name: name}
		err = d.SetTag(r, tag, refs.Tag{Digest: digest(1)})
		if err != nil && !errors.Is(err, refs.ErrName) {
			t.Fatal(err)
		}
		files := tree(t, root)
		if err != nil {
			if len(files) != 0 {
				t.Fatalf("refused, but wrote %v", files)
			}
			return
		}
		if want := filepath.Join(root, "refs", host, name, "_tags", tag); len(files) != 1 || files[0] != want {
			t.Fatalf("wrote %v, want %v", files, want)
		}
		for got := range d.Repos() {
			if got != r {
				t.Fatalf("Repos yields %v, want %v", got, r)
			}
		}
	})
}

// FuzzFile: a file of any content is read as what was written under that name, or not at all.
func FuzzFile(f *testing.F) {
	root := f.TempDir()
	d, err := refs.Open(root)
	if err != nil {
		f.Fatal(err)
	}
	if err := d.SetTag(alpine, "v1", refs.Tag{Digest: digest(1), MediaType: types.OCIImageIndex}); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(root, "docker.io/library/alpine/_tags/v1")
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("entrepot-ref-1 v1 sha256: - 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		must(t, os.WriteFile(path, b, 0o600))
		got, ok := d.Tag(alpine, "v1")
		if !ok {
			return
		}
		must(t, d.SetTag(alpine, "v1", got))
		again, err := os.ReadFile(path)
		must(t, err)
		if string(again) != string(b) {
			t.Errorf("read from %q, written as %q", b, again)
		}
	})
}
