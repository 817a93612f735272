package authn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	ggcr "github.com/google/go-containerregistry/pkg/authn"
)

const (
	maxConfigFile = 4 << 20
	// hubKey is Docker Hub's name in config.json since the first version of the API.
	hubKey = "https://index.docker.io/v1/"
)

// Docker is the config.json of Docker's command line, or the auth.json of Podman's, with its
// credential helpers. The file is read again when it has changed.
type Docker struct {
	path    string
	found   bool // the path was looked up: no file means anonymous
	helpers *helpers

	mu    sync.Mutex
	file  *dockerFile // guarded by mu; what it points to doesn't change
	stamp stamp       // guarded by mu
}

// dockerFile is what we read of config.json. Keys of auths are without scheme and API version.
type dockerFile struct {
	Auths       map[string]ggcr.AuthConfig `json:"auths"`
	CredsStore  string                     `json:"credsStore"`
	CredHelpers map[string]string          `json:"credHelpers"`
	unreadable  map[string]bool            // keys of auths whose entries are damaged
}

// NewDocker returns the credentials of the file at path; "" looks it up: $DOCKER_CONFIG, ~/.docker,
// $REGISTRY_AUTH_FILE, and $XDG_RUNTIME_DIR/containers, the first that exists. None at all then means
// anonymous, while a path that is given must exist by the time it is needed.
func NewDocker(path string) (*Docker, error) {
	d := &Docker{path: path, helpers: newHelpers()}
	if path != "" {
		return d, nil
	}
	candidates := lookupPaths(os.Getenv)
	if len(candidates) == 0 {
		return nil, errors.New("no Docker configuration: neither DOCKER_CONFIG nor HOME is set")
	}
	d.path, d.found = candidates[0], true
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			d.path = c
			break
		}
	}
	return d, nil
}

func lookupPaths(getenv func(string) string) []string {
	var out []string
	if v := getenv("DOCKER_CONFIG"); v != "" {
		out = append(out, filepath.Join(v, "config.json"))
	} else if v := getenv("HOME"); v != "" {
		out = append(out, filepath.Join(v, ".docker", "config.json"))
	}
	if v := getenv("REGISTRY_AUTH_FILE"); v != "" {
		out = append(out, v)
	}
	if v := getenv("XDG_RUNTIME_DIR"); v != "" {
		out = append(out, filepath.Join(v, "containers", "auth.json"))
	}
	return out
}

func (d *Docker) String() string { return "docker config " + d.path }

// Authorization asks, in Docker's order, the host's credential helper, the credential store, and
// the file itself. Errors name the file or the helper.
func (d *Docker) Authorization(ctx context.Context, host, repository string) (ggcr.AuthConfig, error) {
	f, err := d.load()
	if err != nil || f == nil {
		return ggcr.AuthConfig{}, err
	}
	keys := keysFor(host, repository)
	for _, k := range keys {
		if h, ok := f.CredHelpers[k]; ok && h != "" {
			return d.helpers.get(ctx, h, serverFor(k))
		}
	}
	if f.CredsStore != "" {
		cfg, err := d.helpers.get(ctx, f.CredsStore, serverFor(normal(host)))
		if err != nil || cfg != (ggcr.AuthConfig{}) {
			return cfg, err
		}
	}
	for _, k := range keys {
		if f.unreadable[k] {
			return ggcr.AuthConfig{}, fmt.Errorf("docker config %s: the entry of %s under auths cannot be read", d.path, k)
		}
		if cfg, ok := f.Auths[k]; ok && cfg != (ggcr.AuthConfig{}) {
			return cfg, nil
		}
	}
	return ggcr.AuthConfig{}, nil
}

// load returns the file as it is now; nil if there is none and none need be.
func (d *Docker) load() (*dockerFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	raw, st, err := readIfChanged(d.path, d.stamp, maxConfigFile)
	switch {
	case d.found && errors.Is(err, fs.ErrNotExist):
		d.file, d.stamp = nil, stamp{}
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("docker config: %w", err)
	case raw == nil:
		return d.file, nil
	}
	f, err := parseDocker(raw)
	if err != nil {
		return nil, fmt.Errorf("docker config %s: %w", d.path, err)
	}
	d.file, d.stamp = f, st
	return f, nil
}

// parseDocker reads config.json. Its errors quote nothing of it.
func parseDocker(raw []byte) (*dockerFile, error) {
	var in struct {
		dockerFile
		Auths map[string]json.RawMessage `json:"auths"`
	}
	if json.Unmarshal(raw, &in) != nil {
		return nil, errors.New("is no valid JSON of the form that Docker writes")
	}
	out := &dockerFile{CredsStore: in.CredsStore, Auths: map[string]ggcr.AuthConfig{}, CredHelpers: map[string]string{}, unreadable: map[string]bool{}}
	for k, v := range in.Auths {
		var cfg ggcr.AuthConfig
		if json.Unmarshal(v, &cfg) != nil {
			out.unreadable[normal(k)] = true // trouble for that registry alone
			continue
		}
		if cfg.Username != "" {
			cfg.Auth = "" // the same once more
		}
		out.Auths[normal(k)] = cfg
	}
	for k, v := range in.CredHelpers {
		out.CredHelpers[normal(k)] = v
	}
	return out, nil
}

// normal is a key of config.json, or a host, without scheme, API version and final slash, and with one
// name for Docker Hub.
func normal(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	key = strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
	host, rest, _ := strings.Cut(key, "/")
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	if rest != "" {
		return host + "/" + rest
	}
	return host
}

// keysFor lists what may name the credentials of a repository, the longest first: Podman's file may
// have entries for parts of a registry.
func keysFor(host, repository string) []string {
	h := normal(host)
	var keys []string
	for r := repository; r != ""; {
		keys = append(keys, h+"/"+r)
		i := strings.LastIndexByte(r, '/')
		r = r[:max(i, 0)]
	}
	return append(keys, h)
}

// serverFor is what a helper is asked for.
func serverFor(key string) string {
	if key == "docker.io" {
		return hubKey
	}
	return key
}
