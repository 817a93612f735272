//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEndToEnd runs everything. What the parts share, the binary and the filled
// upstreams, is made when the first of them asks for it.
func TestEndToEnd(t *testing.T) {
	s := &suite{t: t, strict: os.Getenv("ENTREPOT_E2E_STRICT") == "1"}
	if os.Getenv("ENTREPOT_E2E") != "1" {
		t.Skip("not asked for: set ENTREPOT_E2E=1")
	}
	s.dir = folder(t)
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"containerd", s.client(containerd{})},
		{"dockerd", s.client(dockerd{})},
		{"skopeo", s.client(skopeo{})},
		{"podman", s.client(podman{})},
		{"crane", s.client(crane{})},
		{"together", s.together},
		{"referrers", s.referrers},
		{"killed", s.killed},
		{"terminated", s.terminated},
		{"reloaded", s.reloaded},
		{"sendfile", s.sendfile},
		{"readme", s.readme},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			c.test(t)
			t.Logf("took %.1fs", time.Since(began).Seconds())
		})
	}
}

// A suite is what the tests share.
type suite struct {
	t      *testing.T // what it makes lives as long as this
	strict bool
	dir    string

	built  string // path of the binary; "" before the first use
	first  *registry
	second *registry
}

// skip says why a test can't run here; where nothing may be left out that is a failure.
func (s *suite) skip(t *testing.T, format string, args ...any) {
	t.Helper()
	reason := fmt.Sprintf(format, args...)
	if s.strict {
		t.Fatalf("can't run, and ENTREPOT_E2E_STRICT=1 forbids skipping: %s", reason)
	}
	// Without -v, go test prints no skips.
	fmt.Fprintf(os.Stderr, "skipped %s: %s\n", t.Name(), reason)
	t.Skip(reason)
}

// need skips the test unless all commands are installed.
func (s *suite) need(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			s.skip(t, "%s is not installed: %v", c, err)
		}
	}
}

func (s *suite) needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		s.skip(t, "needs root")
	}
}

// binary is the daemon, built as this test is: with the race detector or without.
func (s *suite) binary(t *testing.T) string {
	t.Helper()
	if s.built == "" {
		path := filepath.Join(s.dir, "entrepot")
		args := []string{"build", "-o", path}
		if raceDetector() {
			args = append(args, "-race")
		}
		mustRun(t, nil, "go", append(args, "../cmd/entrepot")...)
		s.built = path
	}
	return s.built
}

func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// short makes a name that is good in paths.
func short(name string) string { return strings.NewReplacer("/", "_", ":", "_").Replace(name) }
