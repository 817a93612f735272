package proxy

import (
	"context"
	"net/http"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Upstreams are the registries that may be asked.
type Upstreams interface {
	// Lookup finds the upstream that name means, in whatever case; false: it may
	// not be asked. It opens no connection.
	Lookup(name string) (Upstream, bool)
	// Default is the upstream that is asked when a client names none, "" for none.
	Default() string
}

// Upstream is one registry as the configuration has it. What differs between
// failures of its Registry is said by *fault.Error.
type Upstream interface {
	Host() string  // its own name, e.g. docker.io for index.docker.io
	Label() string // the configured name, perhaps a pattern: a metric's label
	Policy(repository string) Policy
	Registry() (Registry, error)
}

// Policy is what holds for one repository.
type Policy struct {
	Allow     bool
	FreshFor  time.Duration         // a tag checked less long ago is not asked for
	StaleFor  time.Duration         // a tag checked less long ago is served while the upstream fails
	WaitFresh time.Duration         // how long such a tag's client waits for the upstream
	Moves     func(tag string) bool // false: once known, a tag is never asked for again
}

// Registry is a client of one registry. Its methods may be called by many
// goroutines at once.
type Registry interface {
	Manifests
	Blobs
	Lists
}

// Manifests of a registry. ref is a tag or a digest.
type Manifests interface {
	// HeadManifest returns the zero digest where the registry does not say one.
	HeadManifest(ctx context.Context, repo, ref string) (v1.Descriptor, error)
	// GetManifest returns verified bytes.
	GetManifest(ctx context.Context, repo, ref string) (v1.Descriptor, []byte, error)
}

// Blobs of a registry.
type Blobs interface {
	// GetBlob makes one attempt to get n bytes from off, n < 0 to the end: 200 or 206.
	GetBlob(ctx context.Context, repo string, d v1.Hash, off, n int64) (*http.Response, error)
	// HeadBlob returns the blob's size, -1 if the registry does not say.
	HeadBlob(ctx context.Context, repo string, d v1.Hash) (int64, error)
	// CheckBlob asks whether we may have the blob, without fetching it.
	CheckBlob(ctx context.Context, repo string, d v1.Hash) error
}

// Lists of a registry, each whole, whatever its pages.
type Lists interface {
	Tags(ctx context.Context, repo string) ([]string, error)
	// Referrers returns the index of what refers to d; fault.Unsupported or
	// fault.NotFound where the registry does not have this part of the API.
	Referrers(ctx context.Context, repo string, d v1.Hash) ([]byte, error)
}
