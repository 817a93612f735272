package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A process is a daemon that runs as a child.
type process struct {
	cmd  *exec.Cmd
	log  *journal      // its standard error
	done chan struct{} // closed when it has ended; err is set before
	err  error
}

// startDaemon runs `entrepot serve` and returns once it serves.
func startDaemon(dir string, env []string, args ...string) (*process, error) {
	p := &process{
		cmd:  exec.Command("entrepot", append([]string{"serve"}, args...)...),
		log:  newJournal(),
		done: make(chan struct{}),
	}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stderr = dir, env, p.log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.await("msg=serving", 1); err != nil {
		p.kill()
		return nil, fmt.Errorf("%w\n%s", err, p.log)
	}
	return p, nil
}

// await waits until the log holds a text n times.
func (p *process) await(text string, n int) error {
	return p.awaitThat(fmt.Sprintf("%q", text), func(log string) bool { return strings.Count(log, text) >= n })
}

// awaitThat waits for a log of which ok is true; what is named in the error if that does not come.
func (p *process) awaitThat(what string, ok func(log string) bool) error {
	return atMost(15*time.Second, func(ctx context.Context) error {
		for {
			log, grown := p.log.read()
			if ok(log) {
				return nil
			}
			select {
			case <-grown:
			case <-p.done:
				if ok(p.log.String()) {
					return nil
				}
				return fmt.Errorf("the daemon has ended (%v) without %s in its log", p.err, what)
			case <-ctx.Done():
				return fmt.Errorf("no %s in the log", what)
			}
		}
	})
}

// hup makes the daemon read its configuration again, and returns once it has.
func (p *process) hup() error {
	done := func(log string) int {
		return strings.Count(log, `msg="configuration reloaded`) + strings.Count(log, `msg="the configuration is not usable`)
	}
	before := done(p.log.String())
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	return p.awaitThat("reload", func(log string) bool { return done(log) > before })
}

// stop asks the daemon to end and returns why that was not a good end.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return atMost(15*time.Second, func(ctx context.Context) error {
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			p.kill()
			return errors.New("the daemon goes on after SIGTERM")
		}
	})
}

// kill ends the daemon as a crash would. It may be called at any time.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// cmdDaemon is `daemon start FILE | stop | kill | hup | log`.
func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	s := standOf(ts)
	if neg || len(args) == 0 || args[0] != "start" && s.daemon == nil {
		ts.Fatalf("usage: daemon start FILE, then daemon stop | kill | hup | log")
	}
	switch args[0] {
	case "start":
		p, err := startDaemon(ts.Getenv("WORK"), environ(ts), "--config", ts.MkAbs(args[1]))
		ts.Check(err)
		s.daemon = p
		ts.Defer(func() {
			p.kill()
			ts.Logf("log of the daemon:\n%s", p.log)
		})
	case "stop":
		ts.Check(s.daemon.stop())
	case "kill":
		s.daemon.kill()
	case "hup":
		ts.Check(s.daemon.hup())
	case "log":
		fmt.Fprint(ts.Stdout(), s.daemon.log)
	default:
		ts.Fatalf("daemon: unknown %q", args[0])
	}
}

// environ is the script's environment.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "WORK", "RUN", "API", "METRICS", "UPSTREAM", "GORACE", "PASSWORD"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// A journal keeps what is written to it. It may be used by many goroutines at once.
type journal struct {
	mu    sync.Mutex // guards all below
	text  bytes.Buffer
	grown chan struct{} // closed by the next Write
}

func newJournal() *journal { return &journal{grown: make(chan struct{})} }

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.grown)
	j.grown = make(chan struct{})
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// read returns what is there, and a channel that is closed when there is more.
func (j *journal) read() (text string, grown <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String(), j.grown
}

// runDaemon is startDaemon for a Go test, which ends it and looks whether it ended well.
func runDaemon(t *testing.T, env []string, config string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "entrepot") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := dir + "/config.yaml"
	write(t, file, []byte(config))
	p, err := startDaemon(dir, append(append(os.Environ(), raceOptions(), "WORK="+dir), env...), "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", p.log)
		}
	})
	return p
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// get returns an answer as scripts see it, whatever its status.
func get(t *testing.T, url string, flags ...string) string {
	t.Helper()
	a, err := parseAsk(append(flags, url))
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.client()
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := a.do(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// eventually asks again until there is no error.
func eventually(t *testing.T, limit time.Duration, ask func() error) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", limit, err)
		}
	}
}
