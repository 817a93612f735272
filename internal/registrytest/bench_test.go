package registrytest_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// The registry must outrun what is measured against it.
func BenchmarkBlob(b *testing.B) {
	const size = 64 << 20
	s := registrytest.Start(b, registrytest.Options{})
	d := s.AddContent(repo, registrytest.Synthetic(1, size))
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	b.SetBytes(size)
	for b.Loop() {
		resp, err := c.Get(s.URL() + "/v2/" + repo + "/blobs/" + d.Digest.String())
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != size || err != nil {
			b.Fatalf("%d bytes: %v", n, err)
		}
	}
}
