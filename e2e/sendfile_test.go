//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// sendfile watches the daemon's system calls while it serves a hit: the bytes
// go from the file to the socket within the kernel.
func (s *suite) sendfile(t *testing.T) {
	const (
		size = 100 << 20
		head = 512 // net/http writes so much along with the headers
	)
	s.need(t, "strace")
	reg := registrytest.Start(t, registrytest.Options{})
	blob := reg.AddContent("app", registrytest.Synthetic(7, size))
	d := s.daemon(t, upstreams{"registry.test": reg.Host()})
	if err := fetch(t, d, blob, 0).end(t, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	d.completed(t, 1)
	calls := filepath.Join(d.dir, "calls")
	tracer := start(t, filepath.Join(d.dir, "strace"), exec.Command("strace", "-f", "-e", "trace=sendfile,splice,copy_file_range",
		"-o", calls, "-p", strconv.Itoa(d.cmd.Process.Pid)))
	s.traced(t, d, tracer)
	if err := fetch(t, d, blob, 0).end(t, 60*time.Second); err != nil {
		t.Fatal(err)
	}
	tracer.signal(t, syscall.SIGINT)
	tracer.ended(t, 10*time.Second)
	moved, n := kernelBytes(read(t, calls))
	t.Logf("a hit of %d MiB: %.1f MiB moved by %d calls of sendfile or splice", size>>20, mib(moved), n)
	if moved < size-head {
		t.Errorf("sendfile and splice have moved %d bytes of a hit of %d", moved, size)
	}
	if got := reg.Requests(registrytest.Match{Method: "GET", Kind: registrytest.KindBlob, Ref: blob.Digest.String()}); got == 0 {
		t.Error("the upstream was never asked")
	}
}

// traced waits until all threads of the daemon are watched.
func (s *suite) traced(t *testing.T, d *daemon, tracer *process) {
	t.Helper()
	tracerPid := fmt.Sprintf("TracerPid:\t%d\n", tracer.cmd.Process.Pid)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		watched := 0
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), tracerPid) {
				watched++
			}
		}
		if watched > 0 && watched == len(files) {
			return
		}
		select {
		case <-tracer.done:
			s.skip(t, "strace can't attach: %s", tail(tracer.log, 2))
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatal("strace has not attached within 10s")
}

// kernelBytes sums up what the calls of a trace returned.
func kernelBytes(trace string) (moved int64, calls int) {
	result := regexp.MustCompile(`(?m)(?:sendfile|splice).*\) += (\d+)$`)
	for _, m := range result.FindAllStringSubmatch(trace, -1) {
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err == nil && n > 0 {
			moved += n
			calls++
		}
	}
	return moved, calls
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
