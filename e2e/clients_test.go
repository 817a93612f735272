//go:build linux

package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What crosses the upstream link, as a multiple of what is pulled: from nothing
// fetched in secret to some headers on top.
const (
	least = 1.0
	most  = 1.02
)

// A client is a kind of program that pulls.
type client interface {
	// needs names the commands that it is made of.
	needs() (commands []string, root bool)
	// everything says that it pulls all platforms, else linux/amd64 only.
	everything() bool
	// host is the upstream that it pulls from, as images are named.
	host() string
	// session readies one with an empty store in dir.
	session(t *testing.T, dir string, d *daemon) session
}

// A session is a client with a store of its own.
type session interface {
	// pull pulls app:1, through the daemon alone.
	pull(ctx context.Context) error
	// check compares what is in the store with what was pushed.
	check(t *testing.T, c *content)
}

// client tests one client alone: cold, then warm with an empty store of its own
// and the upstream gone.
func (s *suite) client(c client) func(*testing.T) {
	return func(t *testing.T) {
		s.require(t, c)
		r := s.upstream(t)
		line := newLink(t, r.addr)
		d := s.daemon(t, upstreams{"registry.test": line.addr, "docker.io": line.addr})
		s.pullOnce(t, c, d, r.content, "cold")
		share := r.bytes
		if !c.everything() {
			share = r.amd64.bytes
		}
		checkRatio(t, "cold pull", line.down.Load(), share)

		line.cut()
		s.pullOnce(t, c, d, r.content, "warm, upstream gone")
		checkAccess(t, d, c.host())
	}
}

func (s *suite) require(t *testing.T, c client) {
	t.Helper()
	commands, root := c.needs()
	s.need(t, commands...)
	if root {
		s.needRoot(t)
	}
}

// pullOnce pulls into an empty store and compares.
func (s *suite) pullOnce(t *testing.T, c client, d *daemon, want *content, what string) {
	t.Helper()
	// A subtest, so that what the client runs ends with it.
	t.Run(short(what), func(t *testing.T) {
		one := c.session(t, folder(t), d)
		began := time.Now()
		if err := one.pull(t.Context()); err != nil {
			t.Fatalf("%s pull: %v", what, err)
		}
		t.Logf("%s pull: %.2fs", what, time.Since(began).Seconds())
		one.check(t, want)
	})
	if t.Failed() {
		t.FailNow()
	}
}

func checkRatio(t *testing.T, what string, got, want int64) {
	t.Helper()
	ratio := float64(got) / float64(want)
	t.Logf("%s: %.1f MiB over the upstream link for %.1f MiB of content: %.4f x", what, mib(got), mib(want), ratio)
	if ratio < least || ratio > most {
		t.Errorf("%s: %.4f x of the content came over the upstream link, want %.2f to %.2f", what, ratio, least, most)
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// checkAccess fails unless the requests were routed to the upstreams that were
// meant, and answered without an error. containerd's paths do not name the
// upstream, so for it the name can only come from ns.
func checkAccess(t *testing.T, d *daemon, hosts ...string) {
	t.Helper()
	blobs := 0
	for _, a := range d.accesses(t) {
		if a.Kind == "ping" {
			continue
		}
		// Some clients open a layer only to see that it is there.
		gone := strings.Contains(a.Err, "broken pipe") || strings.Contains(a.Err, "connection reset")
		if !slices.Contains(hosts, a.Upstream) || a.Status >= 400 || a.Err != "" && !gone {
			t.Errorf("unexpected request: %+v", a)
		}
		if a.Kind == "blob" && a.Bytes > 0 {
			blobs++
		}
	}
	if blobs == 0 {
		t.Error("the access log knows of no blob: the client went elsewhere")
	}
}

// together lets all clients pull at once, from two upstreams, through one cold daemon.
func (s *suite) together(t *testing.T) {
	clients := []client{containerd{}, dockerd{}, skopeo{}, podman{}, crane{}, skopeo{from: "docker.io"}, crane{from: "docker.io"}}
	for _, c := range clients {
		s.require(t, c)
	}
	first, second := s.upstream(t), s.another(t)
	to := map[string]*registry{"registry.test": first, "docker.io": second}
	lines := map[string]*link{}
	addrs := upstreams{}
	for host, r := range to {
		lines[host] = newLink(t, r.addr)
		addrs[host] = lines[host].addr
	}
	d := s.daemon(t, addrs)
	sessions := make([]session, len(clients))
	for i, c := range clients {
		sessions[i] = c.session(t, folder(t), d)
	}
	var pulls sync.WaitGroup
	began := time.Now()
	for i, one := range sessions {
		pulls.Go(func() {
			if err := one.pull(t.Context()); err != nil {
				t.Errorf("%T: %v", clients[i], err)
			}
		})
	}
	pulls.Wait()
	t.Logf("%d clients at once: %.2fs", len(clients), time.Since(began).Seconds())
	for i, one := range sessions {
		one.check(t, to[clients[i].host()].content)
	}
	for host, r := range to {
		checkRatio(t, "all clients, "+host, lines[host].down.Load(), r.bytes)
	}
	checkAccess(t, d, "registry.test", "docker.io")
}

// isolated is a command in a mount namespace of its own: mounts that it leaves
// behind are gone with it, and do not keep its folder from being removed.
func isolated(name string, args ...string) []string {
	return append([]string{"unshare", "-m", "--propagation", "private", name}, args...)
}

func command(args []string) *exec.Cmd { return exec.Command(args[0], args[1:]...) }

// registriesConf makes skopeo and podman ask the daemon for an upstream's
// images, and nobody else: the registry itself is at a dead address.
func registriesConf(t *testing.T, dir string, d *daemon, host string) string {
	t.Helper()
	path := filepath.Join(dir, "registries.conf")
	write(t, path, `
[[registry]]
prefix = "`+host+`"
location = "127.0.0.1:1"
insecure = true

[[registry.mirror]]
location = "`+d.addr+"/"+host+`"
insecure = true
`)
	return path
}
