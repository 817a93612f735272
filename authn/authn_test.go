package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/authn"
)

func write(t *testing.T, path, content string, mod time.Time) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, mod, mod); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBasicFileIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	b := NewBasicFile("robot", path)
	if _, err := b.Authorization(t.Context(), "h", "r"); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("missing file: error %v does not name it", err)
	}
	at := time.Unix(1e9, 0)
	for i, want := range []string{"one", "two"} {
		write(t, path, want+"\n", at.Add(time.Duration(i)*time.Hour))
		got, err := b.Authorization(t.Context(), "h", "r")
		if err != nil || got.Password != want || got.Username != "robot" {
			t.Fatalf("got %q, %v; want %q", got.Password, err, want)
		}
	}
	write(t, path, "\n", at.Add(5*time.Hour))
	if _, err := b.Authorization(t.Context(), "h", "r"); err == nil {
		t.Fatal("an empty password was accepted")
	}
}

func TestNothingPrintsTheSecret(t *testing.T) {
	const pw = "hunter2"
	b := NewBasic("robot", pw)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "c", b, "s", secret(pw))
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%v %+v %#v %s", b, b, b, b), fmt.Sprintf("%#v %v", secret(pw), secret(pw)), log.String()} {
		if strings.Contains(s, pw) {
			t.Errorf("shows the password: %s", s)
		}
	}
}

func TestByRepository(t *testing.T) {
	team := NewBasic("team", "p")
	b := ByRepository{
		{Match: func(r string) bool { return strings.HasPrefix(r, "team/") }, Credentials: team},
		{Match: func(r string) bool { return r == "team/x" }, Credentials: Anonymous{}},
	}
	for repo, want := range map[string]string{"team/x": "team", "other": ""} {
		got, err := b.Authorization(t.Context(), "h", repo)
		if err != nil || got.Username != want {
			t.Errorf("%s: got %q, %v; want %q", repo, got.Username, err, want)
		}
	}
}

const config = `{
  "auths": {
    "https://index.docker.io/v1/": {"auth": "aHViOmh1YnB3"},
    "quay.io": {"auth": "cXVheTpxcHc="},
    "quay.io/team": {"username": "team", "password": "tpw"},
    "https://broken.example/v2/": {"auth": "!!"},
    "token.example": {"identitytoken": "idt"},
    "empty.example": {}
  },
  "credHelpers": {"helped.example": "fake"}
}`

func TestDockerFile(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "config.json"), config, time.Unix(1e9, 0))
	d, err := NewDocker(path)
	if err != nil {
		t.Fatal(err)
	}
	d.helpers.run = func(_ context.Context, helper, server string) (ggcr.AuthConfig, error) {
		return ggcr.AuthConfig{Username: helper, Password: server}, nil
	}
	for _, tc := range []struct{ host, repo, user, password, token string }{
		{host: "registry-1.docker.io", repo: "library/alpine", user: "hub", password: "hubpw"},
		{host: "docker.io", repo: "library/alpine", user: "hub", password: "hubpw"},
		{host: "quay.io", repo: "other/x", user: "quay", password: "qpw"},
		{host: "QUAY.io", repo: "team/x/y", user: "team", password: "tpw"},
		{host: "token.example", repo: "x", token: "idt"},
		{host: "helped.example", repo: "x", user: "fake", password: "helped.example"},
		{host: "empty.example", repo: "x"},
		{host: "unknown.example", repo: "x"},
	} {
		got, err := d.Authorization(t.Context(), tc.host, tc.repo)
		if err != nil || got.Username != tc.user || got.Password != tc.password || got.IdentityToken != tc.token {
			t.Errorf("%s/%s: got %q %q %q, %v", tc.host, tc.repo, got.Username, got.Password, got.IdentityToken, err)
		}
	}
	if _, err := d.Authorization(t.Context(), "broken.example", "x"); err == nil || strings.Contains(err.Error(), "!!") {
		t.Errorf("broken entry: error %v", err)
	}
}

func TestDockerStoreAsksForHubByItsOldName(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "config.json"), `{"credsStore":"fake","auths":{"quay.io":{"auth":"cXVheTpxcHc="}}}`, time.Unix(1e9, 0))
	d, _ := NewDocker(path)
	var asked []string
	d.helpers.run = func(_ context.Context, _, server string) (ggcr.AuthConfig, error) {
		asked = append(asked, server)
		return ggcr.AuthConfig{}, errNoCredentials
	}
	for range 2 { // the second time from the cache, although nothing was found
		if got, err := d.Authorization(t.Context(), "registry-1.docker.io", "library/alpine"); err != nil || got != (ggcr.AuthConfig{}) {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if got, _ := d.Authorization(t.Context(), "quay.io", "x"); got.Username != "quay" {
		t.Errorf("the file was not asked after the store: %q", got.Username)
	}
	if want := "https://index.docker.io/v1/ quay.io"; strings.Join(asked, " ") != want {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

func TestDockerDefaultPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "none"))
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	d, err := NewDocker("")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Authorization(t.Context(), "quay.io", "x"); err != nil || got != (ggcr.AuthConfig{}) {
		t.Errorf("no file at all: got %v, %v; want anonymous", got, err)
	}
	os.Mkdir(filepath.Join(dir, "containers"), 0o700)
	write(t, filepath.Join(dir, "containers", "auth.json"), config, time.Unix(1e9, 0))
	if d, err = NewDocker(""); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Authorization(t.Context(), "quay.io", "x"); err != nil || got.Username != "quay" {
		t.Errorf("Podman's file: got %q, %v", got.Username, err)
	}
	given, _ := NewDocker(filepath.Join(dir, "missing.json"))
	if _, err := given.Authorization(t.Context(), "quay.io", "x"); err == nil {
		t.Error("a path that was given and does not exist is no error")
	}
}

func TestHelperRunsOnceAndForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHelpers()
		var runs atomic.Int32
		var fail atomic.Bool
		h.run = func(context.Context, string, string) (ggcr.AuthConfig, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			if fail.Load() {
				return ggcr.AuthConfig{}, errors.New("broken")
			}
			return ggcr.AuthConfig{Username: "u"}, nil
		}
		ask := func() error {
			_, err := h.get(t.Context(), "fake", "server")
			return err
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.get(gone, "fake", "server"); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller who left got %v", err)
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := ask(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		steps := []struct {
			sleep time.Duration
			fail  bool
			runs  int32
		}{{0, false, 1}, {4 * time.Minute, false, 1}, {2 * time.Minute, true, 2}, {9 * time.Second, true, 2}, {2 * time.Second, false, 3}}
		for i, s := range steps {
			time.Sleep(s.sleep)
			fail.Store(s.fail)
			ask()
			if runs.Load() != s.runs {
				t.Errorf("step %d: %d runs, want %d", i, runs.Load(), s.runs)
			}
		}
	})
}

func TestRunHelper(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	script := func(name, body string) {
		write(t, filepath.Join(dir, "docker-credential-"+name), "#!/bin/sh\n"+body, time.Now())
		os.Chmod(filepath.Join(dir, "docker-credential-"+name), 0o700)
	}
	script("good", `[ "$1" = get ] && echo "{\"Username\":\"u\",\"Secret\":\"$(cat)\"}"`)
	script("idtoken", `echo '{"Username":"<token>","Secret":"t"}'`)
	script("empty", `echo 'credentials not found in native keychain'; exit 1`)
	script("bad", `echo 'hunter2'; echo hunter2 >&2; exit 3`)
	script("rubbish", `echo 'hunter2'`)
	script("endless", `exec cat /dev/zero`)

	if got, err := runHelper(t.Context(), "good", "srv"); err != nil || got.Username != "u" || got.Password != "srv" {
		t.Errorf("good: %v, %v", got, err)
	}
	if got, err := runHelper(t.Context(), "idtoken", "srv"); err != nil || got.IdentityToken != "t" || got.Username != "" {
		t.Errorf("idtoken: %v, %v", got, err)
	}
	if _, err := runHelper(t.Context(), "empty", "srv"); !errors.Is(err, errNoCredentials) {
		t.Errorf("empty: %v", err)
	}
	for _, name := range []string{"bad", "rubbish", "endless", "missing", "../evil"} {
		_, err := runHelper(t.Context(), name, "srv")
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func FuzzParseDocker(f *testing.F) {
	f.Add([]byte(config))
	f.Add([]byte(`{"auths":{"":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := parseDocker(raw); (d == nil) == (err == nil) {
			t.Fatalf("got %v and %v", d, err)
		}
	})
}
