package registrytest_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/entrepot/entrepot/internal/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const repo = "library/demo"

// client is a plain client of the registry that follows no redirect.
func client(t *testing.T, s *registrytest.Server, http2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: s.CA()},
		Protocols:          new(http.Protocols),
		DisableCompression: true,
	}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	// The server is closed after this: its Close does not wait for idle clients.
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// testContext bounds all waits of a test.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// outcome is what a client saw.
type outcome struct {
	err     error // no answer
	status  int
	header  http.Header
	body    []byte
	bodyErr error
	proto   string
}

// ask sends a request whose header is given in pairs.
func ask(ctx context.Context, t *testing.T, c *http.Client, method, url string, header ...string) outcome {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return outcome{err: err}
	}
	defer resp.Body.Close()
	o := outcome{status: resp.StatusCode, header: resp.Header, proto: resp.Proto}
	o.body, o.bodyErr = io.ReadAll(resp.Body)
	return o
}

func get(t *testing.T, c *http.Client, url string, header ...string) outcome {
	t.Helper()
	return ask(testContext(t), t, c, http.MethodGet, url, header...)
}

func bytesOf(t *testing.T, c *registrytest.Content) []byte {
	t.Helper()
	b, err := io.ReadAll(c.Reader())
	if err != nil {
		t.Fatal(err)
	}
	return b
}
