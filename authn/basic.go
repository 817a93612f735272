package authn

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/authn"
)

const maxSecretFile = 64 << 10

// Basic is a user and a password, the latter from a file if so made.
type Basic struct {
	user     string
	password secret
	path     string // "": password is all there is

	mu    sync.Mutex
	stamp stamp // guarded by mu, as is password if path is set: the version of the file that was read
}

// NewBasic returns fixed credentials.
func NewBasic(user, password string) *Basic {
	return &Basic{user: user, password: secret(password)}
}

// NewBasicFile returns credentials whose password is the content of a file, without its last
// line break. The file is read when it is needed and again when it has changed.
func NewBasicFile(user, path string) *Basic { return &Basic{user: user, path: path} }

// Authorization returns the user and the password. Its error names the file.
func (b *Basic) Authorization(context.Context, string, string) (ggcr.AuthConfig, error) {
	p, err := b.current()
	if err != nil {
		return ggcr.AuthConfig{}, err
	}
	return ggcr.AuthConfig{Username: b.user, Password: string(p)}, nil
}

func (b *Basic) current() (secret, error) {
	if b.path == "" {
		return b.password, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	raw, st, err := readIfChanged(b.path, b.stamp, maxSecretFile)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	if raw != nil {
		p := strings.TrimRight(string(raw), "\r\n")
		if p == "" {
			return "", fmt.Errorf("password file %s is empty", b.path)
		}
		b.password, b.stamp = secret(p), st
	}
	return b.password, nil
}

func (b *Basic) String() string { return "basic " + b.user + ":" + redacted }

// GoString keeps %#v from printing the fields.
func (b *Basic) GoString() string { return b.String() }

// LogValue keeps the password out of logs.
func (b *Basic) LogValue() slog.Value { return slog.StringValue(b.String()) }

// stamp tells versions of a file apart. Secrets that an orchestrator mounts are replaced by
// rename, so that size or time change.
type stamp struct {
	mod  time.Time
	size int64
}

// readIfChanged returns the file's content, or nil if it still is the version of old.
func readIfChanged(path string, old stamp, limit int64) ([]byte, stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, stamp{}, err
	}
	st := stamp{mod: info.ModTime(), size: info.Size()}
	if st == old {
		return nil, old, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, stamp{}, err
	}
	if int64(len(raw)) > limit {
		return nil, stamp{}, fmt.Errorf("%s: longer than %d KiB", path, limit>>10)
	}
	if raw == nil {
		raw = []byte{}
	}
	return raw, st, nil
}
