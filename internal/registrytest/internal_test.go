package registrytest

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestPacerIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{rate: 1 << 20}
		start := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 64 {
					if err := p.wait(t.Context(), 16<<10); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); (took - 10*time.Second).Abs() > time.Millisecond {
			t.Errorf("10 MiB at 1 MiB/s took %v", took)
		}
		// Idleness earns no credit.
		time.Sleep(time.Hour)
		start = time.Now()
		if err := p.wait(t.Context(), 1<<20); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("after idleness 1 MiB took %v", took)
		}
	})
}

func TestContent(t *testing.T) {
	for _, c := range []*Content{
		Synthetic(1, 0), Synthetic(1, 1), Synthetic(1, 7), Synthetic(1, 8), Synthetic(1, 4099),
		SyntheticTar("file", 2, 0), SyntheticTar("file", 2, 1000), SyntheticTar("file", 2, 1024),
	} {
		all, err := io.ReadAll(c.Reader())
		if err != nil || int64(len(all)) != c.Size() {
			t.Fatalf("%d of %d bytes: %v", len(all), c.Size(), err)
		}
		if err := iotest.TestReader(c.Reader(), all); err != nil {
			t.Error(err)
		}
		if c.Digest("sha512") != digestOf("sha512", bytes.NewReader(all)) {
			t.Error("the digest is not that of the bytes")
		}
	}
	if Synthetic(1, 64).Digest("sha256") == Synthetic(2, 64).Digest("sha256") {
		t.Error("two seeds, one content")
	}
}

// The bytes of a seed are fixed: recorded measurements and cached fixtures rely on it.
func TestSyntheticIsStable(t *testing.T) {
	const want = "c96c46e44d11eb3a0733f5d534aaf4e3c8523943e383e6dc452eeb8a2440283c"
	if got := Synthetic(42, 1<<16).Digest("sha256").Hex; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

func FuzzParseRange(f *testing.F) {
	for _, header := range []string{"", "bytes=0-", "bytes=-1", "bytes=5-2", "bytes=0-9223372036854775807", "bytes=-9223372036854775807"} {
		f.Add(header, int64(10))
	}
	f.Add("bytes=0-", int64(0))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		size = max(size, 0)
		off, n, want := parseRange(header, size)
		if want && (off < 0 || n < 0 || off > size || n > size-off) {
			t.Errorf("%q of %d: %d bytes at %d", header, size, n, off)
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	for _, path := range []string{"/v2", "/v2/", "/v2/a/b/manifests/v1", "/v2/a/tags/list", "/v2//blobs/", "/v2x", "/token"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if got := parseTarget(path); got.kind == KindManifest && "/v2/"+got.repo+"/manifests/"+got.ref != path && path[:4] == "/v2/" {
			t.Errorf("%q read as %+v", path, got)
		}
	})
}
