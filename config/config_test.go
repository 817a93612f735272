package config_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/entrepot/entrepot/config"
)

var update = flag.Bool("update", false, "write the .err files of testdata anew")

// env is the environment of all files in testdata.
func env(name string) (string, bool) {
	v, ok := map[string]string{
		"NAME": "harbour", "SIZE": "10GiB", "ACCESS": "false", "PARALLEL": "7",
		"PASSWORD": "hunter2", "HOST": "hunter2.example.com", "BIG": "4711",
		"INJECT": "\"\ncache: {size: 1MiB}\nx: ${PASSWORD} $$",
	}[name]
	return v, ok
}

func load(t *testing.T, file string) *config.Config {
	t.Helper()
	c, err := config.Load(filepath.Join("testdata", file), env)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(text), env)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Each bad file yields exactly the messages beside it, and never what must not be shown.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no bad files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse(filepath.Base(file), data, env)
			if err == nil || c != nil {
				t.Fatalf("Parse = %v, %v; want only an error", c, err)
			}
			got, golden := err.Error()+"\n", strings.TrimSuffix(file, ".yaml")+".err"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
			if strings.Contains(got, "hunter2") || strings.Contains(got, "4711") {
				t.Error("the message shows a secret or what a variable holds")
			}
		})
	}
}

// What every good file comes to is read back from its own Show.
func TestShowReadsBack(t *testing.T) {
	files, err := filepath.Glob("testdata/good-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no good files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := load(t, filepath.Base(file))
			shown, err := c.Show()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(shown), "hunter2") {
				t.Error("Show shows a secret")
			}
			again, err := config.Parse("shown", shown, nil)
			if err != nil {
				t.Fatalf("%v\n%s", err, shown)
			}
			if diff := cmp.Diff(c, again, hidden); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

// hidden compares secrets by what they show.
var hidden = cmp.Options{
	cmpopts.EquateComparable(netip.Prefix{}),
	cmp.Comparer(func(a, b config.Secret) bool { return a.String() == b.String() }),
	cmp.Comparer(func(a, b config.Proxy) bool { return a.String() == b.String() }),
}

func TestNoFileIsTheDefault(t *testing.T) {
	want := config.Default()
	none, err := config.Load("", env)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*config.Config{
		"no file": none, "empty file": load(t, "good-empty.yaml"), "empty sections": load(t, "good-sections.yaml"),
	} {
		if diff := cmp.Diff(want, c); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := config.Load(filepath.Join(t.TempDir(), "none.yaml"), env); !os.IsNotExist(unwrap(err)) {
		t.Errorf("Load of a missing file = %v, want not exist", err)
	}
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return err
}

// The defaults of the design, one by one.
func TestDefaults(t *testing.T) {
	c := config.Default()
	got := map[string]any{
		"listen": c.Listen, "metrics.listen": c.Metrics.Listen, "tls": c.TLS.Enabled(),
		"log": c.Log, "server": c.Server, "fetch": c.Fetch, "builtin": c.Builtin,
		"cache.size": c.Cache.Size.String(), "cache.minFree": c.Cache.MinFree.String(),
		"cache.maxBlobSize": c.Cache.MaxBlobSize.String(), "defaultUpstream": c.DefaultUpstream,
	}
	second := config.Duration(time.Second)
	want := map[string]any{
		"listen": []config.Address{"127.0.0.1:5000"}, "metrics.listen": config.Address("127.0.0.1:5001"), "tls": false,
		"log":    config.Log{Level: "info", Format: "text", Access: true},
		"server": config.Server{IdleTimeout: 90 * second, StalledClient: 60 * second, Drain: 30 * second},
		"fetch": config.Fetch{Fill: "complete", Parallel: 4, PieceSize: 8 << 20, Background: 4,
			Timeouts: config.Timeouts{Connect: 3 * second, Headers: 5 * second, Stall: 15 * second, Patience: 10 * second}},
		"builtin": true, "cache.size": "auto", "cache.minFree": "20%", "cache.maxBlobSize": "64GiB", "defaultUpstream": "docker.io",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	u := c.Upstreams[0]
	if diff := cmp.Diff(config.Tags{StaleFor: 168 * 3600 * second, WaitFresh: 3 * second}, u.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if u.Limits != (config.Limits{Requests: 64}) || u.Credentials.Type != "auto" || u.SignsIn() {
		t.Errorf("limits %v, credentials %v", u.Limits, u.Credentials)
	}
}

func TestGoodValues(t *testing.T) {
	c := load(t, "good-values.yaml")
	if diff := cmp.Diff([]config.Address{"0.0.0.0:80", "[::1]:0", "localhost:0", "unix:/run/entrepot/registry.sock"}, c.Listen); diff != "" {
		t.Error(diff)
	}
	var local []bool
	for _, a := range c.Listen {
		local = append(local, a.Local())
	}
	if diff := cmp.Diff([]bool{false, true, true, true}, local); diff != "" {
		t.Error("Local:", diff)
	}
	if network, address := c.Listen[3].Split(); network != "unix" || address != "/run/entrepot/registry.sock" {
		t.Error("Split =", network, address)
	}
	if c.Hostnames[0] != "cache.example.com" || c.Clients.Allow[1].String() != "fd00::/8" || c.Metrics.Listen != "" {
		t.Error(c.Hostnames, c.Clients, c.Metrics)
	}
	if c.Server.IdleTimeout != config.Duration(90*time.Minute) || c.Server.Drain != 0 {
		t.Error(c.Server)
	}
	if c.Cache.Size.Of(1) != 200<<30 || c.Cache.MinFree.Of(1) != 10<<30 || c.Cache.MaxBlobSize != 1<<20 {
		t.Error(c.Cache)
	}
	if c.Fetch.Fill != config.FillOnDemand || c.Fetch.Parallel != 16 || c.Fetch.Background != 0 || c.DefaultUpstream != "index.docker.io" {
		t.Error(c.Fetch, c.DefaultUpstream)
	}
}

// Variables change values, whatever they hold, and nothing else.
func TestEnvironment(t *testing.T) {
	c := load(t, "good-env.yaml")
	if c.Cache.Dir != "/srv/harbour/x" || c.Cache.Size.String() != "10GiB" || c.Hostnames[0] != "harbour.example.com" {
		t.Error(c.Cache, c.Hostnames)
	}
	if c.Log.Access || c.Fetch.Parallel != 7 {
		t.Error(c.Log, c.Fetch)
	}
	u, _, _ := c.Lookup("registry.example.com")
	inject, _ := env("INJECT")
	if got, want := u.Credentials.Password.Reveal(), "a$b"+inject; got != want || u.Credentials.Username != "$puller" {
		t.Errorf("username %q, password %q, want %q", u.Credentials.Username, got, want)
	}
}

func TestFileTooLarge(t *testing.T) {
	_, err := config.Parse("big.yaml", []byte(strings.Repeat("#", 1<<20)), nil)
	if err == nil || err.Error() != "big.yaml:1:1: is larger than 256 KiB" {
		t.Error(err)
	}
	_, err = config.Parse("latin1.yaml", []byte("log:\n  level: \xe9\n"), nil)
	if err == nil || err.Error() != "latin1.yaml:2:1: is not UTF-8 text" {
		t.Error(err)
	}
}
