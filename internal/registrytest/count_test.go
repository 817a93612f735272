package registrytest_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/registrytest"
)

func TestCounts(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := registrytest.Start(t, tr.options)
			c := client(t, s, tr.options.HTTP2)
			d := s.AddContent(repo, registrytest.Synthetic(1, 1<<20))
			url := s.URL() + "/v2/" + repo + "/blobs/" + d.Digest.String()
			get(t, c, url)
			get(t, c, url, "Range", "bytes=0-99")
			ask(testContext(t), t, c, http.MethodHead, url)
			get(t, c, s.URL()+"/v2/"+repo+"/manifests/none")
			if err := s.WaitIdle(testContext(t)); err != nil {
				t.Fatal(err)
			}

			n := s.Count(registrytest.Match{Kind: registrytest.KindBlob})
			if n.Requests != 3 || n.Ranged != 1 || n.BodyBytes != 1<<20+100 || n.Statuses[200] != 2 || n.Statuses[206] != 1 {
				t.Errorf("blobs: %+v", n)
			}
			for _, tt := range []struct {
				match registrytest.Match
				want  int
			}{
				{registrytest.Match{}, 4},
				{registrytest.Match{Method: http.MethodHead}, 1},
				{registrytest.Match{Kind: registrytest.KindManifest, Ref: "none"}, 1},
				{registrytest.Match{Repo: "other"}, 0},
				{registrytest.Match{Ref: d.Digest.String(), Range: "bytes=0-99"}, 1},
			} {
				if got := s.Requests(tt.match); got != tt.want {
					t.Errorf("%+v: %d, want %d", tt.match, got, tt.want)
				}
			}
			// Headers, frames and TLS come on top of the bodies: below 5 %.
			sent, received := s.SocketBytes()
			if sent < 1<<20+100 || sent > (1<<20)*105/100 || received == 0 {
				t.Errorf("at the sockets: %d sent, %d received", sent, received)
			}
			if s.Connections() != 1 {
				t.Errorf("%d connections, want 1", s.Connections())
			}
			log := s.Log()
			if r := log[1]; len(log) != 4 || r.Range != "bytes=0-99" || r.Status != 206 || r.BodyBytes != 100 || !r.Done || r.Repo != repo {
				t.Errorf("log: %+v", log)
			}
			s.Reset()
			sent, received = s.SocketBytes()
			if s.Requests(registrytest.Match{}) != 0 || sent != 0 || received != 0 || s.Connections() != 0 {
				t.Error("counts left after Reset")
			}
		})
	}
}

func TestWaits(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{})
	c := client(t, s, false)
	ctx := testContext(t)
	d := s.AddContent(repo, registrytest.Synthetic(1, 1000))
	s.Break(registrytest.Fault{StallAt: 600})
	done := make(chan outcome, 2)
	for range 2 {
		go func() { done <- ask(ctx, t, c, http.MethodGet, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String()) }()
	}
	if err := s.WaitRequests(ctx, registrytest.Match{Kind: registrytest.KindBlob}, 2); err != nil {
		t.Error(err)
	}
	if err := s.WaitBodyBytes(ctx, registrytest.Match{Repo: repo}, 1200); err != nil {
		t.Error(err)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if s.WaitIdle(ended) == nil {
		t.Error("idle with two stalled answers")
	}
	s.Heal()
	for range 2 {
		if got := <-done; len(got.body) != 1000 {
			t.Errorf("%d bytes: %v %v", len(got.body), got.err, got.bodyErr)
		}
	}
}

// A client that leaves must not be sent the rest: the bytes of a test would
// count what nobody wanted.
func TestClosedConnectionStopsSending(t *testing.T) {
	for _, tt := range []struct {
		name    string
		perConn int64
		most    int64
	}{
		{"unpaced", 0, 128 << 20}, // what kernels hold of one connection, with room to spare
		{"paced", 16 << 20, 16 << 20},
	} {
		for _, tr := range transports {
			t.Run(tt.name+"/"+tr.name, func(t *testing.T) {
				o := tr.options
				o.PerConn = tt.perConn
				s := registrytest.Start(t, o)
				c := client(t, s, o.HTTP2)
				big := registrytest.Synthetic(1, 1<<40)
				d := registrytest.Synthetic(1, 1).Digest("sha256")
				s.AddBlobAt(repo, big.Size(), big, d)
				ctx := testContext(t)
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/v2/"+repo+"/blobs/"+d.String(), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
					t.Error(err)
				}
				resp.Body.Close()
				if err := s.WaitIdle(ctx); err != nil {
					t.Error(err)
				}
				const chunk = 64 << 10 // may be missing: see BodyBytes
				if n := s.BodyBytes(registrytest.Match{}); n < 1<<20-chunk || n > tt.most {
					t.Errorf("%d bytes sent to a client that read 1 MiB", n)
				}
			})
		}
	}
}

func TestRates(t *testing.T) {
	const size = 512 << 10
	for _, tt := range []struct {
		name    string
		options registrytest.Options
		clients int
		atLeast time.Duration
	}{
		{"a connection", registrytest.Options{PerConn: 4 << 20}, 2, 125 * time.Millisecond},
		{"all", registrytest.Options{Total: 4 << 20}, 2, 250 * time.Millisecond},
		{"storage", registrytest.Options{Total: 4 << 20, Storage: true}, 1, 125 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.Start(t, tt.options)
			d := s.AddContent(repo, registrytest.Synthetic(1, size))
			c := client(t, s, false)
			c.CheckRedirect = nil
			ctx := testContext(t)
			done := make(chan outcome, tt.clients)
			start := time.Now()
			for range tt.clients {
				go func() { done <- ask(ctx, t, c, http.MethodGet, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String()) }()
			}
			for range tt.clients {
				if got := <-done; len(got.body) != size {
					t.Errorf("%d bytes: %v %v", len(got.body), got.err, got.bodyErr)
				}
			}
			// Slower than asked for is the machine's right, within reason.
			if took := time.Since(start); took < tt.atLeast*95/100 || took > 10*time.Second {
				t.Errorf("took %v, want %v or little more", took, tt.atLeast)
			}
		})
	}
}

func TestHandlerUnderAnotherServer(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{PerConn: 1 << 30})
	other := httptest.NewServer(s.Handler())
	defer other.Close()
	c := client(t, s, false)
	d := s.AddBlob(repo, []byte("layer"))
	url := other.URL + "/v2/" + repo + "/blobs/" + d.Digest.String()
	if got := get(t, c, url); string(got.body) != "layer" {
		t.Errorf("%q %v", got.body, got.err)
	}
	for _, f := range []registrytest.Fault{{CutAt: 2}, {CutAt: 2, Reset: true}, {Garbage: true}} {
		s.Heal()
		s.Break(f)
		if got := get(t, c, url); got.err == nil && got.bodyErr == nil {
			t.Errorf("%+v: no error", f)
		}
	}
	c.CloseIdleConnections()
}
