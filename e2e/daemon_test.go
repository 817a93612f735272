//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A daemon is the real binary with a folder and a configuration.
type daemon struct {
	*process
	binary  string
	dir     string // of all its files
	addr    string // of the registry API
	metrics string
	config  string // path
	started time.Duration
}

// upstreams are the addresses of the upstreams, by the names that clients use.
type upstreams map[string]string

// settings is the configuration of a daemon that keeps its store in dir.
func settings(d *daemon, to upstreams) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
listen: [%q]
metrics: {listen: %q}
admin: {socket: %q}
log: {format: json}
cache: {dir: %q, size: 4GiB, minFree: 64MiB}
builtin: false
upstreams:
`, d.addr, d.metrics, d.dir+"/admin.sock", filepath.Join(d.dir, "cache"))
	for name, addr := range to {
		fmt.Fprintf(&b, "  - {name: %s, endpoints: [{url: \"http://%s\"}]}\n", name, addr)
	}
	return b.String()
}

// daemon starts the binary with an empty store.
func (s *suite) daemon(t *testing.T, to upstreams) *daemon {
	t.Helper()
	d := &daemon{binary: s.binary(t), dir: folder(t), addr: freeAddr(t), metrics: freeAddr(t)}
	d.config = filepath.Join(d.dir, "config.yaml")
	write(t, d.config, settings(d, to))
	d.serve(t)
	return d
}

// serve runs the binary, at first or again, and waits until it answers.
func (d *daemon) serve(t *testing.T) {
	t.Helper()
	log := filepath.Join(d.dir, "log")
	cmd := d.command("serve", "--config", d.config)
	began := time.Now()
	d.process = start(t, log, cmd)
	d.await(t, "an answer to GET /v2/", 15*time.Second, func() error {
		_, err := d.get("/v2/")
		return err
	})
	d.started = time.Since(began)
	d.process.watch(t)
}

// watch stops the daemon at the end of the test and looks for what must never
// be in its log.
func (p *process) watch(t *testing.T) {
	t.Cleanup(func() {
		p.stop(t)
		if text, err := os.ReadFile(p.log); err != nil || strings.Contains(string(text), "DATA RACE") || strings.Contains(string(text), "panic:") {
			t.Errorf("the daemon has raced or panicked (%v):\n%.20000s", err, text)
		}
	})
}

// completed waits until so many fills have been committed: a download ends before that.
func (d *daemon) completed(t *testing.T, fills float64) {
	t.Helper()
	d.await(t, "commit", 15*time.Second, func() error {
		if n := d.metric(t, "entrepot_cache_fills_completed_total"); n < fills {
			return fmt.Errorf("%v fills are complete, want %v", n, fills)
		}
		return nil
	})
}

// raceEnv keeps the race detector from waiting a second at the end of each process.
const raceEnv = "GORACE=atexit_sleep_ms=0"

func (d *daemon) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.binary, args...)
	cmd.Env = append(os.Environ(), raceEnv)
	return cmd
}

// get returns the body of a 200.
func (d *daemon) get(path string) ([]byte, error) { return get("http://" + d.addr + path) }

func get(url string) ([]byte, error) {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %.500s", url, resp.Status, body)
	}
	return body, nil
}

// metric returns the sample with that name and these labels, verbatim; -1 when it is not there.
func (d *daemon) metric(t *testing.T, name string) float64 {
	t.Helper()
	text, err := get("http://" + d.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// status is what entrepot status prints about the configuration.
func (d *daemon) status(t *testing.T) (problem string) {
	t.Helper()
	out := mustRun(t, []string{raceEnv}, d.binary, "status", "--config", d.socketOnly(t), "--output", "json")
	var st struct {
		Config struct{ Error string }
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("status: %v: %s", err, out)
	}
	return st.Config.Error
}

// socketOnly is a configuration for commands, for that of the daemon may be a bad one.
func (d *daemon) socketOnly(t *testing.T) string {
	path := filepath.Join(d.dir, "client.yaml")
	write(t, path, fmt.Sprintf("admin: {socket: %q}\n", d.dir+"/admin.sock"))
	return path
}

// An access is a line of the access log.
type access struct {
	Msg, Method, Kind, Upstream, Repository, Reference, Cache, Agent, Err string
	Status                                                                int
	Bytes                                                                 int64
}

// accesses returns the access log so far.
func (d *daemon) accesses(t *testing.T) []access {
	t.Helper()
	text, err := os.ReadFile(d.log)
	if err != nil {
		t.Fatal(err)
	}
	var all []access
	for line := range strings.Lines(string(text)) {
		var a access
		if json.Unmarshal([]byte(line), &a) == nil && a.Msg == "request" {
			all = append(all, a)
		}
	}
	return all
}
