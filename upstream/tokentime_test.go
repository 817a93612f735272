package upstream

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipeNet is a network in memory, so that time in it can be virtual.
type pipeNet struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipeNet) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipeNet) Close() error   { close(p.done); return nil }
func (p *pipeNet) Addr() net.Addr { return &net.TCPAddr{} }
func (p *pipeNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inVirtualTime runs f with a client of h over a network in memory.
func inVirtualTime(t *testing.T, h http.Handler, f func(t *testing.T, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipeNet{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: h}
		go srv.Serve(p)
		defer srv.Close()
		c, err := newClient(Options{Name: "test.example", Endpoints: []Endpoint{{URL: "http://r.example", Proxy: "direct"}}}, p.dial)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f(t, c)
	})
}

func TestTokenLifetime(t *testing.T) {
	for name, tc := range map[string]struct {
		expires string
		steps   []time.Duration // sleep, then ask
		tokens  []int           // asked for after each step, once all is quiet
	}{
		"default of 60 s":           {"", []time.Duration{0, 40 * time.Second, 10 * time.Second, 2 * time.Minute}, []int{1, 1, 2, 3}},
		"honoured, refreshed ahead": {`,"expires_in":1000`, []time.Duration{0, 740 * time.Second, 20 * time.Second, 700 * time.Second}, []int{1, 1, 2, 2}},
		"a short one":               {`,"expires_in":4`, []time.Duration{0, time.Second, 2 * time.Second}, []int{1, 1, 2}},
		"issued_at is not believed": {`,"expires_in":1000,"issued_at":"2001-01-01T00:00:00Z"`, []time.Duration{0, time.Minute}, []int{1, 1}},
		"nonsense for the default":  {`,"expires_in":-5`, []time.Duration{0, 40 * time.Second}, []int{1, 1}},
		"more than a day for a day": {`,"expires_in":1e300`, []time.Duration{0, 25 * time.Hour}, []int{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := &tokenRegistry{realm: "http://r.example/token", expires: tc.expires, refuse: func(string) bool { return false }}
			inVirtualTime(t, http.HandlerFunc(tr.handle), func(t *testing.T, c *Client) {
				for i, d := range tc.steps {
					time.Sleep(d)
					if _, _, err := c.GetManifest(t.Context(), "a", "l"); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if got := tr.get("token"); got != tc.tokens[i] {
						t.Errorf("step %d: %d tokens, want %d", i, got, tc.tokens[i])
					}
				}
				if got := tr.get("401"); got != 1 {
					t.Errorf("%d challenges, want the first only", got)
				}
			})
		})
	}
}

func TestFailedRefreshKeepsTheTokenAndPauses(t *testing.T) {
	tr := &tokenRegistry{realm: "http://r.example/token", refuse: func(string) bool { return false }}
	tr.grant = func(w http.ResponseWriter, r *http.Request) {
		if tr.get("token") > 1 {
			w.WriteHeader(503)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"token": "t", "expires_in": 1000})
	}
	inVirtualTime(t, http.HandlerFunc(tr.handle), func(t *testing.T, c *Client) {
		for _, d := range []time.Duration{0, 800 * time.Second, time.Second, time.Second} {
			time.Sleep(d)
			if _, _, err := c.GetManifest(t.Context(), "a", "l"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if got := tr.get("token"); got != 2 {
			t.Errorf("%d token requests, want the first and one refresh", got)
		}
	})
}

func TestCallerWhoLeavesDoesNotEndTheTokenRequest(t *testing.T) {
	tr := &tokenRegistry{realm: "http://r.example/token", refuse: func(string) bool { return false }}
	tr.grant = func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(2 * time.Second)
		io.WriteString(w, `{"token":"t"}`)
	}
	inVirtualTime(t, http.HandlerFunc(tr.handle), func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := c.GetManifest(ctx, "a", "l"); err == nil {
			t.Fatal("no error after the caller's deadline")
		}
		if _, _, err := c.GetManifest(t.Context(), "a", "l"); err != nil {
			t.Fatal(err)
		}
		if tr.get("token") != 1 {
			t.Errorf("%d token requests", tr.get("token"))
		}
	})
}
