package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// dockerConfig is a daemon with one upstream; what else there is to say is put after it.
const dockerConfig = `
metrics: {listen: "${METRICS}"}
admin: {socket: "${WORK}/admin.sock"}
cache: {dir: "${WORK}/cache"}
builtin: false
`

// addresses returns $API and $METRICS for a daemon, and these as its environment.
func addresses(t *testing.T) (api, metrics string, env []string) {
	t.Helper()
	var out [2]string
	for i := range out {
		addr, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		out[i] = addr
	}
	return out[0], out[1], []string{"API=" + out[0], "METRICS=" + out[1]}
}

// TestStalledClient: a client that takes nothing of its answer loses its connection soon after
// server.stalledClient, however it is connected.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	reg := registrytest.Start(t, registrytest.Options{})
	const size = 64 << 20 // more than the buffers of both ends take
	path := "/v2/library/large/blobs/" + reg.AddContent("library/large", registrytest.Synthetic(7, size)).Digest.String()
	plain := map[string]func(api, dir string) (net.Conn, error){
		"tcp":  func(api, _ string) (net.Conn, error) { return net.Dial("tcp", api) },
		"unix": func(_, dir string) (net.Conn, error) { return net.Dial("unix", dir+"/api.sock") },
	}
	secure := map[string]func(api, dir string) (net.Conn, error){
		"tls": func(api, _ string) (net.Conn, error) {
			return tls.Dial("tcp", api, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // not what is tested
		},
	}
	for extra, dials := range map[string]map[string]func(api, dir string) (net.Conn, error){
		"": plain, `tls: {certFile: "${CERT}", keyFile: "${KEY}"}`: secure,
	} {
		api, metrics, env := addresses(t)
		cert, key := certificateFiles(t)
		p := runDaemon(t, append(env, "UPSTREAM="+reg.Host(), "CERT="+cert, "KEY="+key), dockerConfig+extra+`
server: {stalledClient: 500ms}
listen: ["${API}", "unix:${WORK}/api.sock"]
upstreams: [{name: docker.io, endpoints: [{url: "http://${UPSTREAM}"}]}]
`)
		for name, dial := range dials {
			t.Run(name, func(t *testing.T) {
				before := blobsServed(t, metrics)
				c, err := dial(api, p.cmd.Dir)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
				eventually(t, 15*time.Second, func() error {
					if n := blobsServed(t, metrics); n != before+1 {
						return fmt.Errorf("%d answers have ended, want %d", n, before+1)
					}
					return nil
				})
				wantCut(t, c, size)
			})
		}
	}
}

// wantCut reads what is left of an answer, which has to end early.
func wantCut(t *testing.T, c net.Conn, size int64) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return // the kernel has thrown away even the beginning
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil || n == size {
		t.Fatalf("all %d bytes came to a client that took none", n)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after %d bytes the connection is open and silent: %v", n, err)
	}
}

// blobsServed is how many answers with blobs have ended.
func blobsServed(t *testing.T, metrics string) int {
	t.Helper()
	var sum int
	for _, m := range regexp.MustCompile(`(?m)^entrepot_requests_total\{.*kind="blob".*\} (\d+)$`).FindAllStringSubmatch(get(t, "http://"+metrics+"/metrics"), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestSlowRequests: whoever takes his time to say what he wants is not waited for.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	api, metrics, env := addresses(t)
	runDaemon(t, env, dockerConfig+`
listen: ["${API}"]
server: {idleTimeout: 1s}
defaultUpstream: ""
upstreams: [{name: registry.example.com}]
`)
	cases := map[string]struct {
		addr, send, answer string
		within             time.Duration
	}{
		"headers that do not end":          {api, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-", "", 11 * time.Second},
		"headers of the monitoring":        {metrics, "GET /metrics HTTP/1.1\r\nX-", "", 11 * time.Second},
		"no request":                       {api, "", "", 11 * time.Second},
		"no second request":                {api, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200", 3 * time.Second},
		"a body that does not come":        {api, "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", "HTTP/1.1 405", 11 * time.Second},
		"a chunked body that does not end": {api, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "", 11 * time.Second},
		"a body that is there":             {api, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200", 11 * time.Second},
		"a body that is too large":         {api, "PUT /v2/a/manifests/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n", "HTTP/1.1 405", 3 * time.Second},
	}
	var asked sync.WaitGroup // not parallel subtests, of which only a few would wait at once
	for name, tc := range cases {
		asked.Go(func() {
			text, err := converse(tc.addr, tc.send, tc.within)
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				t.Errorf("%s: the connection is open after %v; so far: %q", name, tc.within, text)
			case !strings.HasPrefix(text, tc.answer):
				t.Errorf("%s: answer %q (%v), want %s", name, text, err, tc.answer)
			}
		})
	}
	asked.Wait()
}

// converse sends a text and returns what comes until the connection is closed.
func converse(addr, text string, within time.Duration) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// certificateFiles writes a key pair to files.
func certificateFiles(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	certPEM, keyPEM, err := newCertificate("entrepot")
	if err != nil {
		t.Fatal(err)
	}
	cert, key = dir+"/cert.pem", dir+"/key.pem"
	write(t, cert, certPEM)
	write(t, key, keyPEM)
	return cert, key
}
