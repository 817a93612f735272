package config

import (
	"strings"
)

// Upstream is a registry, or all registries whose host names match a pattern.
type Upstream struct {
	// Name is what clients call it: host or host:port. It may hold * ("*.pkg.dev",
	// see Pattern); one upstream then stands for every host that matches, each
	// with its own content. Required.
	Name Pattern `yaml:"name"`
	// Aliases are further names. Where Name holds no *, an alias is another word
	// for Name; where it does, aliases are further patterns, and a host that
	// matches keeps its own name. Default: none.
	Aliases []Pattern `yaml:"aliases"`
	// Endpoints are where it is reached, in order of preference.
	// Default: one, https:// and the name of the host.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Credentials say who we are there.
	Credentials Credentials `yaml:"credentials"`
	// Tags say how long an answer about a tag is good.
	Tags Tags `yaml:"tags"`
	// Rules make exceptions for repositories; the first that matches holds,
	// and where none does the repository is allowed. Default: none.
	Rules []Rule `yaml:"rules"`
	// Redirects say where it may send us.
	Redirects Redirects `yaml:"redirects"`
	// Limits bound what we ask of it.
	Limits Limits `yaml:"limits"`
	// ECR holds what only Amazon ECR has.
	ECR ECR `yaml:"ecr"`
}

// Endpoint is one way to reach an upstream.
type Endpoint struct {
	// URL is http:// or https://, a host, and if need be a path in front of
	// the repository. "" is https:// and the host's name, and the only choice
	// for an upstream whose name holds *. Default: "".
	URL string `yaml:"url"`
	// Proxy is the HTTP or SOCKS5 proxy on the way; "" means what the
	// environment says (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), direct means none.
	// Default: "".
	Proxy Proxy `yaml:"proxy"`
	// TLS says whom we trust there and with which certificate we come.
	TLS EndpointTLS `yaml:"tls"`
}

// EndpointTLS says whom we trust and with which certificate we come.
type EndpointTLS struct {
	// CAFile holds the authorities (PEM) to trust instead of the system's.
	// Default: the system's.
	CAFile Path `yaml:"caFile"`
	// CertFile holds the client certificate in PEM. Default: none.
	CertFile Path `yaml:"certFile"`
	// KeyFile holds its private key in PEM. Default: none.
	KeyFile Path `yaml:"keyFile"`
	// InsecureSkipVerify believes any certificate. Default: false.
	InsecureSkipVerify bool `yaml:"insecureSkipVerify"`
}

// What Credentials.Type may be.
const (
	CredentialsAuto      = "auto"
	CredentialsAnonymous = "anonymous"
	CredentialsBasic     = "basic"
	CredentialsDocker    = "docker"
)

// Credentials say who we are at an upstream.
type Credentials struct {
	// Type is where they come from. auto: as the provider needs it, and in this
	// version always anonymous; nothing of a user's is read unasked. basic: a
	// user name and a password. docker: a Docker configuration file. Default: auto.
	Type string `yaml:"type" oneof:"auto anonymous basic docker" later:"bearer ecr ecr-public google azure exec"`
	// Username is for basic. Default: none.
	Username string `yaml:"username"`
	// Password is for basic; prefer passwordFile. Default: none.
	Password Secret `yaml:"password"`
	// PasswordFile holds the password and is read again when it changes. Default: none.
	PasswordFile Path `yaml:"passwordFile"`
	// ConfigFile is for docker: the file to read, with the credential helpers
	// that it names. Default: "", config.json in $DOCKER_CONFIG, else in ~/.docker.
	ConfigFile Path `yaml:"configFile"`
}

// SignsIn reports whether an upstream may see who we are.
func (c Credentials) SignsIn() bool {
	return c.Type != CredentialsAnonymous && c.Type != CredentialsAuto
}

// Tags say how long an answer about a tag is good.
type Tags struct {
	// FreshFor is how long it is given without asking the upstream again. Default: 0s.
	FreshFor Duration `yaml:"freshFor"`
	// StaleFor is how long after it was last checked it is still given when the
	// upstream cannot be reached. Default: 168h.
	StaleFor Duration `yaml:"staleFor"`
	// WaitFresh is how long a client waits for the upstream while such an
	// answer is at hand. Default: 3s.
	WaitFresh Duration `yaml:"waitFresh" range:"0s..10m"`
	// Immutable are the tags that never move and are asked for once; * stands
	// for any characters. Default: none.
	Immutable []Glob `yaml:"immutable"`
}

// Moves reports whether tag may come to mean another digest, so that it has to
// be checked.
func (t Tags) Moves(tag string) bool {
	for _, g := range t.Immutable {
		if g.Match(tag) {
			return false
		}
	}
	return true
}

// Rule is an exception for some repositories of an upstream.
type Rule struct {
	// Repositories are the names that it is for, as the upstream has them
	// ("library/alpine" on Docker Hub): * stands for any characters but /,
	// ** for any number of path elements. Required.
	Repositories []Glob `yaml:"repositories"`
	// Allow says whether they may be asked for. Default: true.
	Allow bool `yaml:"allow"`
	// Tags replace those keys of the upstream's that are set here. Default: the upstream's.
	Tags *Tags `yaml:"tags"`
	// Credentials replace the upstream's as a whole. Default: the upstream's.
	Credentials *Credentials `yaml:"credentials"`
}

// Redirects say where an upstream may send us.
type Redirects struct {
	// Allow lists hosts on private addresses to which it may redirect; may hold
	// * (see Pattern). Public addresses need no leave. Default: none.
	Allow []Pattern `yaml:"allow"`
}

// Limits bound what we ask of an upstream.
type Limits struct {
	// Requests is the most that are under way at once. Default: 64.
	Requests int `yaml:"requests" range:"1..10000"`
	// Bandwidth is the most bytes a second that are taken from it; 0 means no
	// limit. Default: 0.
	Bandwidth Size `yaml:"bandwidth"`
}

// ECR holds what only Amazon ECR has.
type ECR struct {
	// Accounts narrows a pattern of ECR host names to these accounts (12
	// digits). Default: all.
	Accounts []string `yaml:"accounts"`
}

// Policy is what holds for one repository of an upstream.
type Policy struct {
	Allow       bool
	Tags        Tags
	Credentials Credentials
}

// Policy returns what holds for repository, named as the upstream has it: the
// first rule that matches, and the upstream's own settings where it says nothing.
func (u *Upstream) Policy(repository string) Policy {
	p := Policy{Allow: true, Tags: u.Tags, Credentials: u.Credentials}
	for _, r := range u.Rules {
		if !r.Matches(repository) {
			continue
		}
		p.Allow = r.Allow
		if r.Tags != nil {
			p.Tags = *r.Tags
		}
		if r.Credentials != nil {
			p.Credentials = *r.Credentials
		}
		break
	}
	return p
}

// Matches reports whether the rule is for repository, named as the upstream has it.
func (r *Rule) Matches(repository string) bool {
	for _, g := range r.Repositories {
		if g.Match(repository) {
			return true
		}
	}
	return false
}

// EndpointsFor returns the endpoints of host, a name that Lookup has returned
// for u, each with its URL.
func (u *Upstream) EndpointsFor(host string) []Endpoint {
	out := make([]Endpoint, len(u.Endpoints))
	for i, e := range u.Endpoints {
		if e.URL == "" {
			e.URL = "https://" + host
		}
		out[i] = e
	}
	return out
}

// SignsIn reports whether u, or a rule of it, is asked with credentials or with
// a client certificate.
func (u *Upstream) SignsIn() bool {
	if u.Credentials.SignsIn() {
		return true
	}
	for _, e := range u.Endpoints {
		if e.TLS.CertFile != "" {
			return true
		}
	}
	for _, r := range u.Rules {
		if r.Credentials != nil && r.Credentials.SignsIn() {
			return true
		}
	}
	return false
}

// Lookup finds the upstream for a host as a client names it, in whatever case.
// Names and aliases without * come first, then patterns in their order. It also
// returns the host's own name (docker.io for its alias index.docker.io). ok is
// false for a host that may not be asked.
func (c *Config) Lookup(name string) (u *Upstream, host string, ok bool) {
	name = strings.ToLower(name)
	for _, wild := range []bool{false, true} {
		for i := range c.Upstreams {
			if u := &c.Upstreams[i]; u.names(name, wild) && u.ECR.serves(name) {
				return u, u.canonical(name), true
			}
		}
	}
	return nil, "", false
}

// names reports whether one of u's names means host, looking only at the
// patterns (wild) or only at the literal names.
func (u *Upstream) names(host string, wild bool) bool {
	if u.Name.Wild() == wild && u.Name.Match(host) {
		return true
	}
	for _, a := range u.Aliases {
		if a.Wild() == wild && a.Match(host) {
			return true
		}
	}
	return false
}

func (u *Upstream) canonical(host string) string {
	if u.Name.Wild() {
		return host
	}
	return string(u.Name)
}

func (e ECR) serves(host string) bool {
	account, _, _ := strings.Cut(host, ".")
	for _, a := range e.Accounts {
		if a == account {
			return true
		}
	}
	return len(e.Accounts) == 0
}
