//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// killed kills the daemon in mid-fill, as a lack of memory does. The next one
// answers at once and goes on where the fill was.
func (s *suite) killed(t *testing.T) {
	const (
		size    = 100 << 20
		workers = 4 + 1         // fetch.parallel, and the one for far readers
		limit   = workers << 20 // bytes fetched again
		quick   = 300 * time.Millisecond
	)
	reg := registrytest.Start(t, registrytest.Options{PerConn: 20 << 20})
	blobs := registrytest.Match{Kind: registrytest.KindBlob}
	d := s.daemon(t, upstreams{"registry.test": reg.Host()})
	best := time.Hour
	for round := range 3 {
		blob := reg.AddContent("app", registrytest.Synthetic(uint64(round), size))
		reg.Reset()
		first := fetch(t, d, blob, 0)
		if err := reg.WaitBodyBytes(t.Context(), blobs, size/2); err != nil {
			t.Fatal(err)
		}
		d.kill(t)
		if err := first.end(t, 10*time.Second); err == nil {
			t.Fatal("the download has ended well although the daemon was killed")
		}
		if err := reg.WaitIdle(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := reg.BodyBytes(blobs)
		d.serve(t)
		best = min(best, d.started)
		if err := fetch(t, d, blob, 0).end(t, 30*time.Second); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		again := reg.BodyBytes(blobs) - size
		t.Logf("killed after %.1f MiB; answers %.0f ms after exec; fetched again: %.2f MiB",
			mib(before), d.started.Seconds()*1000, mib(again))
		if again < 0 || again > limit {
			t.Errorf("%d bytes were fetched again, want at most %d", again, limit)
		}
	}
	t.Logf("restart: %.0f ms, the best of 3", best.Seconds()*1000)
	if best > quick {
		t.Errorf("the daemon answers %v after exec, want at most %v", best, quick)
	}
}

// terminated ends the daemon in the middle of two downloads. Both come to their
// end, while another daemon already has the folder.
func (s *suite) terminated(t *testing.T) {
	const (
		size    = 48 << 20
		lockAge = 5 * time.Second
	)
	reg := registrytest.Start(t, registrytest.Options{})
	d := s.daemon(t, upstreams{"registry.test": reg.Host()})
	here := reg.AddContent("app", registrytest.Synthetic(1, size))
	filling := reg.AddContent("app", registrytest.Synthetic(2, size))
	if err := fetch(t, d, here, 0).end(t, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	d.completed(t, 1)
	reg.Break(registrytest.Fault{Match: registrytest.Match{Ref: filling.Digest.String()}, Rate: size / 16}) // four at once need longer than the folder is kept, one alone less than the drain
	hit := fetch(t, d, here, 8*time.Second/(size>>20))
	fill := fetch(t, d, filling, 0)
	d.await(t, "the beginning of both downloads", 10*time.Second, func() error {
		if hit.got.Load() == 0 || fill.got.Load() == 0 {
			return fmt.Errorf("%d and %d bytes", hit.got.Load(), fill.got.Load())
		}
		return nil
	})
	asked := time.Now()
	d.signal(t, syscall.SIGTERM)
	d.signal(t, syscall.SIGHUP) // which must not end it
	next := s.successor(t, d, asked.Add(lockAge))
	t.Logf("another daemon has the folder %.2fs after SIGTERM", time.Since(asked).Seconds())
	hit.running(t)
	fill.running(t)
	for what, f := range map[string]*download{"from a hit": hit, "from a fill": fill} {
		if err := f.end(t, 30*time.Second); err != nil {
			t.Errorf("the download %s: %v", what, err)
		}
	}
	if code := d.ended(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	t.Logf("the first daemon has ended %.2fs after SIGTERM", time.Since(asked).Seconds())
	if text := read(t, d.log); strings.Contains(text, "not put away in order") {
		t.Errorf("the folder was left with an index that has to be rebuilt:\n%s", tail(d.log, 5))
	}
	reg.Heal()
	for _, b := range []v1.Descriptor{here, filling} {
		if err := fetch(t, next, b, 0).end(t, 30*time.Second); err != nil {
			t.Errorf("from the other daemon: %v", err)
		}
	}
}

// successor starts another daemon on the same folder as soon as it can be had.
func (s *suite) successor(t *testing.T, d *daemon, until time.Time) *daemon {
	t.Helper()
	next := &daemon{binary: d.binary, dir: folder(t), addr: freeAddr(t), metrics: freeAddr(t)}
	next.config = filepath.Join(next.dir, "config.yaml")
	text := strings.NewReplacer(d.addr, next.addr, d.metrics, next.metrics, d.dir+"/admin.sock", next.dir+"/admin.sock").Replace(read(t, d.config))
	write(t, next.config, text)
	for tries := 0; ; tries++ {
		// A trial ends by itself while the folder is taken.
		trial := launch(t, filepath.Join(next.dir, "log"), next.command("serve", "--config", next.config))
		if next.answers(trial, until) {
			next.process = trial
			trial.watch(t)
			if tries == 0 {
				t.Error("the folder was not locked while the first daemon still served")
			}
			return next
		}
		if time.Now().After(until) {
			trial.stop(t)
			t.Fatalf("the folder is still not given up:\n%s", tail(trial.log, 3))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// answers reports whether the process comes to serve before it ends.
func (d *daemon) answers(p *process, until time.Time) bool {
	for time.Now().Before(until) {
		if _, err := d.get("/v2/"); err == nil {
			return true
		}
		select {
		case <-p.done:
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return false
}

// reloaded reloads the configuration under 20 downloads, none of which may notice.
func (s *suite) reloaded(t *testing.T) {
	const (
		downloads = 20
		size      = 4 << 20
	)
	reg := registrytest.Start(t, registrytest.Options{PerConn: 1 << 20})
	// The end comes when the test wants it.
	reg.Break(registrytest.Fault{Match: registrytest.Match{Kind: registrytest.KindBlob}, StallAt: size - 1<<20})
	to := upstreams{"registry.test": reg.Host()}
	d := s.daemon(t, to)
	var all []*download
	for i := range downloads {
		all = append(all, fetch(t, d, reg.AddContent("app", registrytest.Synthetic(uint64(i), size)), 0))
	}
	d.await(t, "the beginning of all downloads", 15*time.Second, func() error {
		for _, f := range all {
			if f.got.Load() == 0 {
				return errors.New("one has no byte")
			}
		}
		return nil
	})
	checkUpstream(t, d, "added.test", false)
	to["added.test"] = reg.Host()
	good := settings(d, to)
	d.reload(t, good, "")
	checkUpstream(t, d, "added.test", true)
	d.reload(t, good+"\nsise: 1\n", "sise")
	checkUpstream(t, d, "added.test", true)
	d.reload(t, "listen: [\n", "config.yaml")
	d.reload(t, good, "")
	for _, f := range all {
		f.running(t)
	}
	reg.Heal()
	for i, f := range all {
		if err := f.end(t, 30*time.Second); err != nil {
			t.Errorf("download %d: %v", i, err)
		}
		// The connection still serves, and there never was another.
		if err := f.blob(f.context(t.Context()), "http://"+d.addr); err != nil {
			t.Errorf("download %d, once more: %v", i, err)
		}
		if n := f.conns.Load(); n != 1 {
			t.Errorf("download %d has used %d connections, want 1", i, n)
		}
	}
}

// reload puts a file in place and sends SIGHUP. With problem "" the file is
// good; else the old configuration stays, and status and metric say so.
func (d *daemon) reload(t *testing.T, file, problem string) {
	t.Helper()
	result, successful := "ok", 1.0
	if problem != "" {
		result, successful = "failed", 0
	}
	sample := fmt.Sprintf("entrepot_config_reloads_total{result=%q}", result)
	before := max(d.metric(t, sample), 0)
	write(t, d.config, file)
	d.signal(t, syscall.SIGHUP)
	d.await(t, "reload counted as "+result, 5*time.Second, func() error {
		if n := d.metric(t, sample); n != before+1 {
			return fmt.Errorf("%s is %v, was %v", sample, n, before)
		}
		return nil
	})
	if got := d.metric(t, "entrepot_config_last_reload_successful"); got != successful {
		t.Errorf("entrepot_config_last_reload_successful is %v after a reload that was %s", got, result)
	}
	got := d.status(t)
	if (got == "") != (problem == "") || !strings.Contains(got, problem) {
		t.Errorf("status says %q of the reload, want %q", got, problem)
	}
}

// checkUpstream fails unless the name is known as an upstream, or not.
func checkUpstream(t *testing.T, d *daemon, name string, known bool) {
	t.Helper()
	resp, err := http.Get("http://" + d.addr + "/v2/" + name + "/app/manifests/none")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want := http.StatusForbidden
	if known {
		want = http.StatusNotFound
	}
	if resp.StatusCode != want {
		t.Errorf("%s: %s, want %d", name, resp.Status, want)
	}
}
