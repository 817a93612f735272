package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary double as the program: under the name
// entrepot it is the daemon and its commands, built as the tests are (-race).
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"entrepot": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the scripts of testdata; testdata/README.md says how to read them.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Deadline:            time.Now().Add(2 * time.Minute),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"certificate": cmdCertificate,
			"daemon":      cmdDaemon,
			"exits":       cmdExits,
			"http":        cmdHTTP,
			"keep":        cmdKeep,
			"registry":    cmdRegistry,
		},
	})
}

// stand is what the commands of one script share.
type stand struct {
	daemon   *process
	registry *demo
}

type standKey struct{}

// setup gives each script addresses of its own, which configurations take as ${API} and
// ${METRICS}, and a folder for sockets, ${RUN}.
func setup(env *testscript.Env) error {
	for _, name := range []string{"API", "METRICS"} {
		addr, err := freeAddress()
		if err != nil {
			return err
		}
		env.Setenv(name, addr)
	}
	// The name of a Unix socket can have no more than about 100 bytes, and that of $WORK may.
	run, err := os.MkdirTemp("/tmp", "entrepot")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(run) })
	env.Setenv("RUN", run)
	env.Vars = append(env.Vars, raceOptions())
	env.Values[standKey{}] = new(stand)
	return nil
}

func standOf(ts *testscript.TestScript) *stand { return ts.Value(standKey{}).(*stand) }

// raceOptions spares each child the second for which the race detector waits at its end.
func raceOptions() string { return "GORACE=" + os.Getenv("GORACE") + " atexit_sleep_ms=0" }

// freeAddress returns an address on loopback that nobody listens on. It is below the ports
// that systems give to connections, so that none of those takes it before the daemon does.
func freeAddress() (string, error) {
	for range 50 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(12000+rand.IntN(20000)))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no free port")
}

// cmdExits is `exits CODE COMMAND…`: the command ends with this exit code.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = strconv.Itoa(exit.ExitCode())
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// atMost runs f with a bound on its waits.
func atMost(limit time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := f(ctx); err != nil {
		return fmt.Errorf("within %v: %w", limit, err)
	}
	return nil
}

// cmdKeep is `keep NAME REGEXP`: the first group of what matches the latest output becomes $NAME.
func cmdKeep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: keep NAME REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("no match of %s with a group", args[1])
	}
	ts.Setenv(args[0], m[1])
}
