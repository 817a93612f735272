package authn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sync/singleflight"
)

const (
	helperLimit     = 10 * time.Second // for a run of a helper
	helperGrace     = time.Second      // for its children to let go of its output
	helperFresh     = 5 * time.Minute  // an answer is believed
	helperPause     = 10 * time.Second // before a helper that failed is run again
	maxHelperOutput = 1 << 20
	maxAnswers      = 256
)

// errNoCredentials is the helper's "nothing stored for this server".
var errNoCredentials = errors.New("credentials not found")

// helpers runs credential helpers, one at a time for each server, and remembers what they said.
type helpers struct {
	run   func(ctx context.Context, helper, server string) (ggcr.AuthConfig, error)
	group singleflight.Group

	mu sync.Mutex
	m  map[string]helperAnswer // guarded by mu; at most maxAnswers
}

type helperAnswer struct {
	cfg   ggcr.AuthConfig
	err   error
	until time.Time
}

func newHelpers() *helpers { return &helpers{run: runHelper, m: map[string]helperAnswer{}} }

// get returns what helper says of server. A caller who leaves doesn't end the run: others wait for it.
func (h *helpers) get(ctx context.Context, helper, server string) (ggcr.AuthConfig, error) {
	key := helper + "\x00" + server
	if a, ok := h.cached(key); ok {
		return a.cfg, a.err
	}
	done := h.group.DoChan(key, func() (any, error) {
		if a, ok := h.cached(key); ok {
			return a, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), helperLimit)
		defer cancel()
		cfg, err := h.run(ctx, helper, server)
		if errors.Is(err, errNoCredentials) {
			cfg, err = ggcr.AuthConfig{}, nil
		}
		return h.store(key, cfg, err), nil
	})
	select {
	case r := <-done:
		a := r.Val.(helperAnswer)
		return a.cfg, a.err
	case <-ctx.Done():
		return ggcr.AuthConfig{}, fmt.Errorf("credential helper %s: %w", helper, ctx.Err())
	}
}

func (h *helpers) cached(key string) (helperAnswer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.m[key]
	return a, ok && time.Now().Before(a.until)
}

func (h *helpers) store(key string, cfg ggcr.AuthConfig, err error) helperAnswer {
	a := helperAnswer{cfg: cfg, err: err, until: time.Now().Add(helperFresh)}
	if err != nil {
		a.until = time.Now().Add(helperPause)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.m) >= maxAnswers {
		clear(h.m) // a run each, and they are back
	}
	h.m[key] = a
	return a
}

// runHelper speaks the protocol of docker-credential-helpers: "get", the server on stdin, JSON on
// stdout. What the helper wrote isn't repeated in errors: it may be the secret.
func runHelper(ctx context.Context, helper, server string) (ggcr.AuthConfig, error) {
	var none ggcr.AuthConfig
	if helper == "" || strings.ContainsAny(helper, "/\\\x00") {
		return none, fmt.Errorf("credential helper %q: not a name", helper)
	}
	name := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, name, "get")
	cmd.WaitDelay = helperGrace
	cmd.Stdin = strings.NewReader(server)
	out := &limited{}
	cmd.Stdout = out
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return none, fmt.Errorf("%s gave no answer within %v", name, helperLimit)
	case err != nil && bytes.Contains(out.b, []byte("credentials not found")):
		return none, errNoCredentials
	case err != nil:
		return none, fmt.Errorf("%s failed for %s: %w", name, server, err)
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out.b, &answer) != nil {
		return none, fmt.Errorf("%s gave an answer for %s that is not JSON", name, server)
	}
	if answer.Username == "<token>" {
		return ggcr.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return ggcr.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
}

// limited is a buffer that refuses to grow without end.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	if len(l.b)+len(p) > maxHelperOutput {
		return 0, errors.New("output too long")
	}
	l.b = append(l.b, p...)
	return len(p), nil
}
