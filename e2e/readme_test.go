//go:build linux

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	nobody         = 65534
	capDacOverride = 1 // linux/capability.h
)

// readme runs the first command of the README, as a user who has just cloned the
// repository: no configuration, no cache, not root.
func (s *suite) readme(t *testing.T) {
	const line = "go run ./cmd/entrepot serve"
	if text := read(t, "../README.md"); !strings.Contains(text, "\n    "+line+"\n") {
		t.Fatalf("the README no longer says %q", line)
	}
	for _, port := range []string{"5000", "5001"} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			s.skip(t, "port %s is taken: %v", port, err)
		}
		l.Close()
	}
	home := folder(t)
	args := strings.Fields(line)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = ".."
	cmd.Env = cleanEnv(t, home)
	if os.Geteuid() == 0 {
		if err := os.Chown(home, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		// Go's own caches are root's here, so this nobody may write anywhere.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
			AmbientCaps: []uintptr{capDacOverride},
		}
	}
	p := start(t, filepath.Join(home, "log"), cmd)
	p.await(t, "an answer on 127.0.0.1:5000", 3*time.Minute, func() error {
		_, err := get("http://127.0.0.1:5000/v2/")
		return err
	})
	for _, name := range []string{"lock", "blobs"} {
		if _, err := os.Stat(filepath.Join(home, ".cache", "entrepot", name)); err != nil {
			t.Errorf("the store is not in the user's cache folder: %v", err)
		}
	}
	// As the terminal does it: go run does not pass a signal on.
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	// Its code says nothing: interrupted, go run always ends with 1.
	p.ended(t, 15*time.Second)
	if strings.Contains(read(t, p.log), "exit status") {
		t.Errorf("the daemon has ended badly:\n%s", tail(p.log, 5))
	}
	if l, err := net.Listen("tcp", "127.0.0.1:5000"); err != nil {
		t.Errorf("the daemon still runs: %v", err)
	} else {
		l.Close()
	}
}

// cleanEnv is what Go needs to build, and a home that is new.
func cleanEnv(t *testing.T, home string) []string {
	t.Helper()
	env := []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	for _, key := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOTOOLCHAIN"} {
		env = append(env, key+"="+strings.TrimSpace(mustRun(t, nil, "go", "env", key)))
	}
	// Git refuses the folder of another user, and go run would only stamp it.
	return append(env, "GOFLAGS=-buildvcs=false")
}
