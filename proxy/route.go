package proxy

import (
	"fmt"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Kind is what a request asks for.
type Kind uint8

// The kinds of requests.
const (
	Other Kind = iota // none of the below: refused
	Ping
	Manifest
	Blob
	Tags
	Referrers
)

var kindNames = [...]string{"other", "ping", "manifest", "blob", "tags", "referrers"}

// String returns the kind's name as metrics and logs have it.
func (k Kind) String() string { return kindNames[k] }

// A Request is the part of an HTTP request that says what it is about.
type Request struct {
	Method    string
	Path      string // decoded
	RawPath   string // as it was sent, if that is not the usual encoding of Path (url.URL.RawPath)
	Namespace string // the ns parameter, else the OCI-Namespace header
}

// A Route is what a request means.
type Route struct {
	Kind      Kind
	Upstream  string  // its own name, e.g. docker.io; "" for a ping
	Name      string  // repository as the upstream has it
	Tag       string  // of a manifest asked for by tag
	Digest    v1.Hash // of a manifest, blob or subject asked for by digest
	Namespace string  // the ns that has decided, to be repeated in the answer
}

// Names says which upstreams there are, for Parse.
type Names struct {
	Lookup  func(name string) (canonical string, ok bool) // in whatever case
	Own     func(host string) bool                        // is it an address of ours?
	Default string                                        // asked when a client names none, "" for none
}

const dockerHub = "docker.io"

// Parse says what a request means. It is a pure function of its arguments; its
// errors are answers for the client.
//
// The upstream is that of ns, else of the first element of the path, else the default one.
func Parse(rq Request, names Names) (Route, error) {
	path, ok := strings.CutPrefix(rq.Path, "/v2")
	if !ok || path != "" && path[0] != '/' {
		return Route{}, answer(http.StatusNotFound, codeUnsupported, "this is the registry API, below /v2/")
	}
	if rq.Method != http.MethodGet && rq.Method != http.MethodHead {
		return Route{}, answer(http.StatusMethodNotAllowed, codeUnsupported, "this is a cache for pulls: push to the upstream registry itself")
	}
	if path == "" || path == "/" {
		return Route{Kind: Ping}, nil
	}
	if raw := strings.ToLower(rq.RawPath); strings.Contains(raw, "%2f") || strings.Contains(raw, "%5c") {
		return Route{}, answer(http.StatusBadRequest, codeNameInvalid, "the path holds an encoded slash")
	}
	name, r, err := split(path[1:])
	if err != nil {
		return Route{}, err
	}
	if err := r.place(name, rq.Namespace, names); err != nil {
		return Route{}, err
	}
	return r, nil
}

// split takes the path below /v2/ apart into a name and what is wanted of it.
func split(path string) (name string, r Route, err error) {
	rest, last, ok := cutLast(path)
	name, verb, ok2 := cutLast(rest)
	if !ok || !ok2 || name == "" {
		return "", r, answer(http.StatusNotFound, codeUnsupported, "no such part of the registry API")
	}
	switch {
	case verb == "tags" && last == "list":
		r.Kind = Tags
	case verb == "manifests":
		r.Kind = Manifest
		if !strings.Contains(last, ":") {
			if !validTag(last) {
				return "", r, answer(http.StatusBadRequest, codeNameInvalid, "the tag is not one: letters, digits, _ . - and at most 128 of them")
			}
			r.Tag = last
			return name, r, nil
		}
		r.Digest, err = parseDigest(last)
	case verb == "blobs" && last != "uploads":
		r.Kind = Blob
		r.Digest, err = parseDigest(last)
	case verb == "referrers":
		r.Kind = Referrers
		r.Digest, err = parseDigest(last)
	default:
		err = answer(http.StatusNotFound, codeUnsupported, "no such part of the registry API")
	}
	return name, r, err
}

// place finds the upstream and the repository as the upstream has it.
func (r *Route) place(name, ns string, names Names) error {
	first, rest, more := strings.Cut(name, "/")
	switch {
	case ns != "" && !names.Own(ns):
		host, ok := names.Lookup(ns)
		if !ok {
			return notAllowed(ns)
		}
		r.Upstream, r.Name, r.Namespace = host, name, ns
	case more:
		if host, ok := names.Lookup(first); ok {
			r.Upstream, r.Name = host, rest
			break
		}
		if looksLikeHost(first) {
			return notAllowed(first)
		}
		fallthrough
	default:
		host, ok := names.Lookup(names.Default)
		if names.Default == "" || !ok {
			return answer(http.StatusNotFound, codeNameUnknown, "the request names no upstream, and no defaultUpstream is configured")
		}
		r.Upstream, r.Name = host, name
	}
	if r.Upstream == dockerHub && !strings.Contains(r.Name, "/") {
		r.Name = "library/" + r.Name
	}
	if !validName(r.Name) {
		return answer(http.StatusBadRequest, codeNameInvalid, "the repository's name is not one: lower-case letters and digits, parted by / . _ __ or -")
	}
	return nil
}

func notAllowed(host string) error {
	return answer(http.StatusForbidden, codeDenied, fmt.Sprintf("upstream %s is not allowed: add it under upstreams in the configuration", printable(host)))
}

// looksLikeHost is how the field tells a registry's host from a repository
// (distribution/reference): it has a dot or a port, or is localhost.
func looksLikeHost(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost"
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

// printable is s for a message: of bounded length, and nothing but printable ASCII.
func printable(s string) string {
	const most = 1000
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return clean[:min(len(clean), most)]
}
