package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/internal/registrytest"
	"github.com/entrepot/entrepot/upstream"
)

// patient are timeouts that a starved machine does not reach: what times out is asked for again.
func patient() upstream.Timeouts {
	return upstream.Timeouts{Connect: time.Minute, Headers: time.Minute, Stall: time.Minute, Patience: time.Minute}
}

// TestOneFetch is promise 1: however many clients, in whatever way, once.
func TestOneFetch(t *testing.T) {
	const size = 2*mib + 4321
	want := content(1, size)
	d := digestOf(want)
	rows := []struct {
		name    string
		clients int
		o       registrytest.Options
		ask     func(s *stand, i int) error
	}{
		{"100 waiters on one blob", 100, registrytest.Options{Total: 20 << 20}, func(s *stand, _ int) error {
			return isWhole(s.get(blobPath(d)), want)
		}},
		{"open ranges from everywhere", 32, registrytest.Options{}, func(s *stand, i int) error {
			off := i * size / 32
			return isPart(s.get(blobPath(d), "Range", fmt.Sprintf("bytes=%d-", off)), want, off, size)
		}},
		{"open ranges cut early", 32, registrytest.Options{Total: 20 << 20}, func(s *stand, i int) error {
			return s.readSome(blobPath(d), fmt.Sprintf("bytes=%d-", i*size/32), want[i*size/32:], size/32)
		}},
		{"bounded ranges", 32, registrytest.Options{}, func(s *stand, i int) error {
			off, end := i*size/32, min(size, (i+1)*size/32+1000)
			return isPart(s.get(blobPath(d), "Range", fmt.Sprintf("bytes=%d-%d", off, end-1)), want, off, end)
		}},
		{"multi-ranges", 32, registrytest.Options{}, func(s *stand, i int) error {
			a, b := i*1000, size-1-i*1000
			return isParts(s.get(blobPath(d), "Range", fmt.Sprintf("bytes=%d-%d,%d-%d,-7", a, a+99, b-99, b)), want, [][2]int{{a, a + 100}, {b - 99, b + 1}, {size - 7, size}})
		}},
		{"an upstream over HTTP/2", 32, registrytest.Options{TLS: true, HTTP2: true}, func(s *stand, i int) error {
			return isWhole(s.get(blobPath(d)), want)
		}},
		{"behind a redirect to a storage host", 32, registrytest.Options{Storage: true, Auth: registrytest.AuthBearer}, func(s *stand, i int) error {
			return isWhole(s.get(blobPath(d)), want)
		}},
		{"the first client leaves after 1 MiB", 2, registrytest.Options{Total: 20 << 20}, func(s *stand, i int) error {
			if i == 0 {
				return s.readSome(blobPath(d), "", want, mib)
			}
			return nil
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := newStand(t, setup{registry: row.o, timeouts: patient(), cache: cache.Options{PieceSize: 256 << 10}})
			s.registry.AddBlob(repo, want)
			var wg sync.WaitGroup
			for i := range row.clients {
				wg.Go(func() {
					if err := row.ask(s, i); err != nil {
						t.Errorf("client %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			s.once(size)
			if r := s.get(blobPath(d)); !r.whole(want) || r.header.Get("X-Cache") != "HIT" {
				t.Errorf("afterwards: %v", r)
			}
			s.once(size)
		})
	}
}

// TestHerd: 32 cold clients on one image of 8 layers, as clients that ask by tag do.
func TestHerd(t *testing.T) {
	s := newStand(t, setup{registry: registrytest.Options{Total: 100 << 20}, timeouts: patient(), cache: cache.Options{PieceSize: 256 << 10}})
	var layers [][]byte
	size := int64(0)
	for i := range 8 {
		layers = append(layers, content(uint64(10+i), int64(mib/2+i*100_000)))
	}
	img := s.registry.AddImage(repo, "v1", layers...)
	size += img.Config.Size
	for _, l := range img.Layers {
		size += l.Size
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			m := s.get(manifestPath("v1"))
			if !m.whole(img.Raw) {
				t.Errorf("manifest: %v", m)
				return
			}
			if m := s.get(manifestPath(img.Manifest.Digest.String())); !m.whole(img.Raw) {
				t.Errorf("manifest by digest: %v", m)
			}
			var layer sync.WaitGroup
			for i, l := range img.Layers {
				layer.Go(func() {
					if r := s.get(blobPath(l.Digest)); !r.whole(layers[i]) {
						t.Errorf("layer %d: %v", i, r)
					}
				})
			}
			if r := s.get(blobPath(img.Config.Digest)); r.status != 200 || digestOf(r.body) != img.Config.Digest {
				t.Errorf("config: %v", r)
			}
			layer.Wait()
		})
	}
	wg.Wait()
	s.once(size)
	if n := s.registry.Requests(registrytest.Match{Kind: registrytest.KindManifest, Method: "GET"}); n != 1 {
		t.Errorf("%d GETs of the manifest, want 1", n)
	}
}

// TestFirstByteWhileTheUpstreamStillSends is promise 2.
func TestFirstByteWhileTheUpstreamStillSends(t *testing.T) {
	s := newStand(t, setup{timeouts: upstream.Timeouts{Connect: time.Second, Headers: time.Second, Stall: time.Minute, Patience: 5 * time.Second}})
	want := content(3, 4*mib)
	d := digestOf(want)
	s.registry.AddBlob(repo, want)
	s.registry.Break(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindBlob}, Times: 1, StallAt: 100_000})
	r, err := s.start(context.Background(), "GET", blobPath(d))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.ContentLength != int64(len(want)) {
		t.Errorf("Content-Length %d", r.ContentLength)
	}
	got := make([]byte, 100_000) // all that has come: the upstream stands still
	if _, err := io.ReadFull(r.Body, got); err != nil || !bytes.Equal(got, want[:len(got)]) {
		t.Fatalf("the first bytes: %v", err)
	}
	s.registry.Release()
	rest, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Equal(rest, want[len(got):]) {
		t.Errorf("the rest: %d bytes, %v", len(rest), err)
	}
}

// TestLastMiB: the end of a cold blob costs what the end has, not what the blob has.
func TestLastMiB(t *testing.T) {
	const size = 256 * mib
	all := registrytest.Synthetic(4, size)
	d := all.Digest("sha256")
	want := make([]byte, mib)
	if _, err := all.ReadAt(want, size-mib); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		rng      string
		onDemand bool
		most     int64 // bytes from upstream when the client has its own
	}{
		"bounded, complete":  {fmt.Sprintf("bytes=%d-%d", size-mib, size-1), false, 64 * mib},
		"suffix, complete":   {fmt.Sprintf("bytes=-%d", mib), false, 64 * mib},
		"bounded, on demand": {fmt.Sprintf("bytes=%d-%d", size-mib, size-1), true, 4 * mib},
		"suffix, on demand":  {fmt.Sprintf("bytes=-%d", mib), true, 4 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, setup{registry: registrytest.Options{PerConn: 40 << 20}, cache: cache.Options{OnDemand: row.onDemand, Background: -1}})
			s.registry.AddBlobAt(repo, size, all, d)
			start := time.Now()
			r := s.get(blobPath(d), "Range", row.rng)
			took, fetched := time.Since(start), s.blobBytes()
			if err := isPart(r, nil, size-mib, size); err != nil || !bytes.Equal(r.body, want) {
				t.Fatalf("%v: %v", err, r)
			}
			t.Logf("after %v, %.1f MiB from the upstream", took.Round(time.Millisecond), float64(fetched)/mib)
			if fetched > row.most {
				t.Errorf("%d bytes were fetched before the client had its own, want at most %d", fetched, row.most)
			}
		})
	}
}

// readSome reads n bytes of an answer and leaves.
func (s *stand) readSome(path, rng string, want []byte, n int) error {
	header := []string{"Range", rng}
	if rng == "" {
		header = nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := s.start(ctx, "GET", path, header...)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	n = min(n, len(want)-1)
	got := make([]byte, n)
	if _, err := io.ReadFull(r.Body, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want[:n]) {
		return fmt.Errorf("wrong bytes")
	}
	return nil
}

func isWhole(r reply, want []byte) error {
	if !r.whole(want) {
		return fmt.Errorf("got %v", r)
	}
	return nil
}

func isPart(r reply, all []byte, off, end int) error {
	size := strings.TrimPrefix(r.header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/", off, end-1))
	if r.err != nil || r.status != http.StatusPartialContent || size == r.header.Get("Content-Range") {
		return fmt.Errorf("got %v", r)
	}
	if all != nil && !bytes.Equal(r.body, all[off:end]) {
		return fmt.Errorf("wrong bytes for [%d,%d)", off, end)
	}
	return nil
}

func isParts(r reply, all []byte, parts [][2]int) error {
	kind, params, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	if err != nil || r.status != http.StatusPartialContent || kind != "multipart/byteranges" {
		return fmt.Errorf("got %v", r)
	}
	if fmt.Sprint(len(r.body)) != r.header.Get("Content-Length") {
		return fmt.Errorf("%d bytes, Content-Length %s", len(r.body), r.header.Get("Content-Length"))
	}
	mr := multipart.NewReader(bytes.NewReader(r.body), params["boundary"])
	for _, want := range parts {
		p, err := mr.NextRawPart()
		if err != nil {
			return err
		}
		if got := p.Header.Get("Content-Range"); got != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, len(all)) {
			return fmt.Errorf("part %v: Content-Range %q", want, got)
		}
		body, err := io.ReadAll(p)
		if err != nil || !bytes.Equal(body, all[want[0]:want[1]]) {
			return fmt.Errorf("part %v: %d bytes, %v", want, len(body), err)
		}
	}
	if _, err := mr.NextRawPart(); err != io.EOF {
		return fmt.Errorf("more parts than asked for: %v", err)
	}
	return nil
}
