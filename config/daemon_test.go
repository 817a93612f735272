package config_test

import (
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/config"
)

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

func TestResolve(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Skip("the folders of macOS are its own")
	}
	for _, c := range []struct {
		name        string
		env         []string
		uid         int
		dir, socket string
		err         string
	}{
		{name: "root", uid: 0, dir: "/var/lib/entrepot", socket: "/run/entrepot/admin.sock"},
		{name: "systemd", env: []string{"CACHE_DIRECTORY=/var/cache/entrepot:/var/cache/other"}, uid: 0, dir: "/var/cache/entrepot", socket: "/run/entrepot/admin.sock"},
		{name: "systemd, own user", env: []string{"CACHE_DIRECTORY=/var/cache/entrepot", "XDG_RUNTIME_DIR=/run/user/7"}, uid: 7, dir: "/var/cache/entrepot", socket: "/run/user/7/entrepot/admin.sock"},
		{name: "user", env: []string{"HOME=/home/u"}, uid: 7, dir: "/home/u/.cache/entrepot", socket: "/home/u/.cache/entrepot/admin.sock"},
		{name: "user, XDG", env: []string{"HOME=/home/u", "XDG_CACHE_HOME=/c", "XDG_RUNTIME_DIR=/r"}, uid: 7, dir: "/c/entrepot", socket: "/r/entrepot/admin.sock"},
		{name: "user, relative XDG", env: []string{"HOME=/home/u", "XDG_CACHE_HOME=c", "XDG_RUNTIME_DIR="}, uid: 7, dir: "/home/u/.cache/entrepot", socket: "/home/u/.cache/entrepot/admin.sock"},
		{name: "nobody", uid: 7, err: "configuration: the user's cache folder is unknown, as neither $XDG_CACHE_HOME nor $HOME is set: set cache.dir"},
		{name: "nobody under systemd", env: []string{"CACHE_DIRECTORY=/c"}, uid: 7, err: "configuration: the user's cache folder is unknown, as neither $XDG_CACHE_HOME nor $HOME is set: set admin.socket"},
		{name: "odd systemd", env: []string{"CACHE_DIRECTORY=c"}, err: `configuration: $CACHE_DIRECTORY holds "c", which is not an absolute path: correct it or set cache.dir`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config.Default()
			err := cfg.Resolve(environment(c.env...), c.uid)
			if err != nil {
				if err.Error() != c.err {
					t.Fatal(err)
				}
				return
			}
			if string(cfg.Cache.Dir) != c.dir || string(cfg.Admin.Socket) != c.socket || c.err != "" {
				t.Errorf("%s, %s", cfg.Cache.Dir, cfg.Admin.Socket)
			}
		})
	}
	cfg := parse(t, "cache: {dir: /d}\nadmin: {socket: /s}\n")
	if err := cfg.Resolve(environment("CACHE_DIRECTORY=/c"), 7); err != nil || cfg.Cache.Dir != "/d" || cfg.Admin.Socket != "/s" {
		t.Error(cfg.Cache.Dir, cfg.Admin.Socket, err)
	}
}

func TestRestart(t *testing.T) {
	old := config.Default()
	if keys := parse(t, "").Restart(old); keys != nil {
		t.Errorf("the same configuration needs a restart for %v", keys)
	}
	live := parse(t, `
hostnames: [a.example.com]
clients: {allow: [10.0.0.0/8]}
log: {level: debug, access: false}
server: {drain: 1s}
fetch: {timeouts: {connect: 1s, headers: 1s, stall: 1s}}
defaultUpstream: quay.io
upstreams: [{name: registry.example.com}]
`)
	if keys := live.Restart(old); keys != nil {
		t.Errorf("a reload does not apply %v", keys)
	}
	c := parse(t, `
listen: ["127.0.0.1:6000"]
tls: {certFile: /c, keyFile: /k}
metrics: {listen: ""}
admin: {socket: /s}
cache: {dir: /d, size: 1GiB}
fetch: {parallel: 5}
log: {level: debug}
`)
	want := []string{"listen", "tls", "metrics.listen", "admin.socket", "cache.dir", "cache.size", "fetch.parallel"}
	if diff := cmp.Diff(want, c.Restart(old)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCheckListener(t *testing.T) {
	const signsIn = "upstreams: [{name: registry.example.com, credentials: {type: docker}}]\n"
	open := &net.TCPAddr{IP: net.IPv4zero, Port: 5000}
	for _, c := range []struct {
		name, file string
		addr       net.Addr
		ok         bool
	}{
		{"open, nobody signs in", "", open, true},
		{"open, signs in", signsIn, open, false},
		{"open without an address", signsIn, &net.TCPAddr{Port: 5000}, false},
		{"open to the allowed", signsIn + "clients: {allow: [10.0.0.0/8]}\n", open, true},
		{"loopback", signsIn, &net.TCPAddr{IP: net.IPv6loopback, Port: 5000}, true},
		{"socket", signsIn, &net.UnixAddr{Name: "/s", Net: "unix"}, true},
	} {
		err := parse(t, c.file).CheckListener(c.addr)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
