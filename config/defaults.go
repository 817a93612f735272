package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Default returns the configuration of an empty file: a node-local cache of the
// built-in upstreams.
func Default() *Config {
	c := defaults()
	c.complete(newReport(""))
	return c
}

// defaults returns what a file starts from.
func defaults() *Config {
	return &Config{
		Listen:  []Address{"127.0.0.1:5000"},
		Metrics: Metrics{Listen: "127.0.0.1:5001"},
		Log:     Log{Level: "info", Format: "text", Access: true},
		Server: Server{
			IdleTimeout:   Duration(90 * time.Second),
			StalledClient: Duration(60 * time.Second),
			Drain:         Duration(30 * time.Second),
		},
		Cache: Cache{MinFree: Share{Percent: 20}, MaxBlobSize: 64 * GiB},
		Fetch: Fetch{
			Fill:       FillComplete,
			Parallel:   4,
			PieceSize:  8 * MiB,
			Background: 4,
			Timeouts: Timeouts{
				Connect:  Duration(3 * time.Second),
				Headers:  Duration(5 * time.Second),
				Stall:    Duration(15 * time.Second),
				Patience: Duration(10 * time.Second),
			},
		},
		Builtin:         true,
		DefaultUpstream: dockerHub,
	}
}

func (u *Upstream) setDefaults() {
	u.Credentials.setDefaults()
	u.Tags.setDefaults()
	u.Limits.Requests = 64
}

func (c *Credentials) setDefaults() { c.Type = CredentialsAuto }

func (t *Tags) setDefaults() {
	t.StaleFor = Duration(168 * time.Hour)
	t.WaitFresh = Duration(3 * time.Second)
}

func (r *Rule) setDefaults() { r.Allow = true }

const dockerHub = "docker.io"

// Known returns the upstreams that are built in. ECR is one upstream with a
// pattern for each partition and kind of endpoint: standard, FIPS, dual-stack.
func Known() []Upstream {
	known := []Upstream{
		{
			Name:      dockerHub,
			Aliases:   []Pattern{"index.docker.io", "registry-1.docker.io"},
			Endpoints: []Endpoint{{URL: "https://registry-1.docker.io"}},
		},
		{Name: "ghcr.io"},
		{Name: "quay.io"},
		{Name: "gcr.io"},
		{Name: "*.pkg.dev"},
		{Name: "registry.k8s.io"},
		{Name: "mcr.microsoft.com"},
		{Name: "public.ecr.aws"},
		{
			Name: "*.dkr.ecr.*.amazonaws.com",
			Aliases: []Pattern{
				"*.dkr.ecr-fips.*.amazonaws.com",
				"*.dkr-ecr.*.on.aws",
				"*.dkr-ecr-fips.*.on.aws",
				"*.dkr.ecr.*.amazonaws.com.cn",
				"*.dkr-ecr.*.on.amazonwebservices.com.cn",
				"*.dkr.ecr.*.amazonaws.eu",
				"*.dkr.ecr.*.sc2s.sgov.gov",
				"*.dkr.ecr.*.c2s.ic.gov",
				"*.dkr.ecr.*.cloud.adc-e.uk",
				"*.dkr.ecr.*.csp.hci.ic.gov",
			},
		},
	}
	for i := range known {
		known[i].setDefaults()
	}
	return known
}

// complete fills in what follows from other keys: what is known of built-in
// upstreams, what rules inherit, and endpoints that are the name itself.
func (c *Config) complete(r *report) {
	taken := map[Pattern]bool{}
	for i := range c.Upstreams {
		u := &c.Upstreams[i]
		u.inheritTags(r, fmt.Sprintf("upstreams[%d]", i))
		taken[u.Name] = true
		for _, a := range u.Aliases {
			taken[a] = true
		}
	}
	for _, k := range Known() {
		free := func(a Pattern) bool { return !taken[a] }
		k.Aliases = filter(k.Aliases, free)
		i := slices.IndexFunc(c.Upstreams, func(u Upstream) bool { return u.Name == k.Name })
		switch {
		case i >= 0:
			c.Upstreams[i].adopt(k, r.has(fmt.Sprintf("upstreams[%d].aliases", i)))
		case c.Builtin:
			c.Upstreams = append(c.Upstreams, k)
		}
	}
	for i := range c.Upstreams {
		c.Upstreams[i].completeEndpoints()
	}
	if _, _, ok := c.Lookup(dockerHub); !ok && !r.has("defaultUpstream") {
		c.DefaultUpstream = ""
	}
	c.DefaultUpstream = strings.ToLower(c.DefaultUpstream)
}

// inheritTags gives the tags of u's rules what they do not set themselves.
func (u *Upstream) inheritTags(r *report, path string) {
	for i := range u.Rules {
		own := u.Rules[i].Tags
		if own == nil {
			continue
		}
		all, prefix := u.Tags, fmt.Sprintf("%s.rules[%d].tags.", path, i)
		if r.has(prefix + "freshFor") {
			all.FreshFor = own.FreshFor
		}
		if r.has(prefix + "staleFor") {
			all.StaleFor = own.StaleFor
		}
		if r.has(prefix + "waitFresh") {
			all.WaitFresh = own.WaitFresh
		}
		if r.has(prefix + "immutable") {
			all.Immutable = own.Immutable
		}
		u.Rules[i].Tags = &all
	}
}

// adopt takes over from the built-in upstream k what u does not set.
func (u *Upstream) adopt(k Upstream, ownAliases bool) {
	if !ownAliases {
		u.Aliases = k.Aliases
	}
	if len(u.Endpoints) == 0 {
		u.Endpoints = k.Endpoints
	}
	for i := range u.Endpoints {
		if u.Endpoints[i].URL == "" && len(k.Endpoints) > 0 {
			u.Endpoints[i].URL = k.Endpoints[0].URL
		}
	}
}

// completeEndpoints gives u an endpoint if it has none, and an endpoint without
// a URL the upstream's own name unless that is a pattern.
func (u *Upstream) completeEndpoints() {
	if len(u.Endpoints) == 0 {
		u.Endpoints = []Endpoint{{}}
	}
	for i := range u.Endpoints {
		e := &u.Endpoints[i]
		if e.URL == "" && u.Name != "" && !u.Name.Wild() {
			e.URL = "https://" + string(u.Name)
		}
		e.URL = strings.TrimRight(e.URL, "/")
	}
}

func filter(in []Pattern, keep func(Pattern) bool) []Pattern {
	var out []Pattern
	for _, p := range in {
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}

// Resolve fills in Cache.Dir and Admin.Socket where they are "", for a process
// with this environment (os.LookupEnv) and user id (os.Geteuid).
func (c *Config) Resolve(env func(string) (string, bool), uid int) error {
	dir, err := CacheDir(string(c.Cache.Dir), env, uid)
	if err != nil {
		return err
	}
	socket, err := AdminSocket(string(c.Admin.Socket), env, uid)
	if err != nil {
		return err
	}
	c.Cache.Dir, c.Admin.Socket = Path(dir), Path(socket)
	return nil
}

// CacheDir returns the folder of the store: dir where it is set, else the first
// folder of $CACHE_DIRECTORY (systemd.exec(5) sets it), else /var/lib/entrepot
// for root, else entrepot in the user's cache folder.
func CacheDir(dir string, env func(string) (string, bool), uid int) (string, error) {
	if dir != "" {
		return dir, nil
	}
	if dirs, _ := env("CACHE_DIRECTORY"); dirs != "" {
		first, _, _ := strings.Cut(dirs, ":")
		if !filepath.IsAbs(first) {
			return "", fmt.Errorf("configuration: $CACHE_DIRECTORY holds %q, which is not an absolute path: correct it or set cache.dir", first)
		}
		return first, nil
	}
	if uid == 0 {
		return "/var/lib/entrepot", nil
	}
	cache, err := userCache(env)
	if err != nil {
		return "", fmt.Errorf("%w: set cache.dir", err)
	}
	return filepath.Join(cache, "entrepot"), nil
}

// AdminSocket returns the path of the operators' socket: socket where it is set,
// else /run/entrepot/admin.sock for root, else entrepot/admin.sock in
// $XDG_RUNTIME_DIR or, without that, in the user's cache folder.
func AdminSocket(socket string, env func(string) (string, bool), uid int) (string, error) {
	if socket != "" {
		return socket, nil
	}
	if uid == 0 {
		return "/run/entrepot/admin.sock", nil
	}
	folder, _ := env("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(folder) {
		cache, err := userCache(env)
		if err != nil {
			return "", fmt.Errorf("%w: set admin.socket", err)
		}
		folder = cache
	}
	return filepath.Join(folder, "entrepot", "admin.sock"), nil
}

// userCache returns the user's cache folder (XDG Base Directory Specification;
// on macOS ~/Library/Caches). Relative paths count as unset, as there.
func userCache(env func(string) (string, bool)) (string, error) {
	home, _ := env("HOME")
	cache, _ := env("XDG_CACHE_HOME")
	switch {
	case filepath.IsAbs(cache) && runtime.GOOS != "darwin":
		return cache, nil
	case !filepath.IsAbs(home):
		return "", errors.New("configuration: the user's cache folder is unknown, as neither $XDG_CACHE_HOME nor $HOME is set")
	case runtime.GOOS == "darwin":
		return filepath.Join(home, "Library", "Caches"), nil
	}
	return filepath.Join(home, ".cache"), nil
}
