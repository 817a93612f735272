package authn

import (
	"context"
	"log/slog"

	ggcr "github.com/google/go-containerregistry/pkg/authn"
)

// Credentials says who we are at a registry.
type Credentials interface {
	Authorization(ctx context.Context, host, repository string) (ggcr.AuthConfig, error)
}

// secret is a string that doesn't show itself when it is printed or logged.
type secret string

const redacted = "[redacted]"

func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Anonymous is nobody.
type Anonymous struct{}

// Authorization returns the zero AuthConfig.
func (Anonymous) Authorization(context.Context, string, string) (ggcr.AuthConfig, error) {
	return ggcr.AuthConfig{}, nil
}

func (Anonymous) String() string { return "anonymous" }

// Rule gives credentials to the repositories that it matches.
type Rule struct {
	Match       func(repository string) bool
	Credentials Credentials
}

// ByRepository asks the credentials of the first rule that matches; where none does we are
// anonymous.
type ByRepository []Rule

// Authorization implements Credentials.
func (b ByRepository) Authorization(ctx context.Context, host, repository string) (ggcr.AuthConfig, error) {
	for _, r := range b {
		if r.Match(repository) {
			return r.Credentials.Authorization(ctx, host, repository)
		}
	}
	return ggcr.AuthConfig{}, nil
}
