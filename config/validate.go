package config

import (
	"encoding"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// validate reports what a value alone cannot tell: bounds, and keys that
// contradict each other.
func (c *Config) validate(r *report) {
	checkRanges(r, reflect.ValueOf(c).Elem(), "")
	c.checkListeners(r)
	checkPair(r, "tls", c.TLS.CertFile, c.TLS.KeyFile)
	for i, h := range c.Hostnames {
		checkPortless(r, fmt.Sprintf("hostnames[%d]", i), h)
	}
	if c.Admin.Socket != "" {
		if err := checkSocket(string(c.Admin.Socket)); err != nil {
			r.key("admin.socket", "%s %v", r.quote("admin.socket", string(c.Admin.Socket)), err)
		}
	}
	for i := range c.Upstreams {
		c.Upstreams[i].validate(r, fmt.Sprintf("upstreams[%d]", i))
	}
	c.checkNames(r)
	if c.DefaultUpstream == "" {
		return
	}
	if _, _, ok := c.Lookup(c.DefaultUpstream); !ok {
		r.key("defaultUpstream", `%s is not an upstream: write the name of one, or "" for none`,
			r.quote("defaultUpstream", c.DefaultUpstream))
	}
}

// checkRanges holds every number of v against the bounds at its field.
func checkRanges(r *report, v reflect.Value, path string) {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		checkRanges(r, v.Elem(), path)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			checkRanges(r, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case isSection(v.Type()):
		for f := range fields(v.Type()) {
			key, child := join(path, f.Tag.Get("yaml")), v.FieldByIndex(f.Index)
			if bounds, ok := f.Tag.Lookup("range"); ok {
				checkRange(r, child, key, bounds)
			}
			checkRanges(r, child, key)
		}
	}
}

func checkRange(r *report, v reflect.Value, key, bounds string) {
	low, high, _ := strings.Cut(bounds, "..")
	lowest, highest := reflect.New(v.Type()).Elem(), reflect.New(v.Type()).Elem()
	if set(lowest, low, "") != nil || set(highest, high, "") != nil {
		r.key(key, "has bounds that cannot be read: %s", bounds)
		return
	}
	if n := v.Int(); n < lowest.Int() || n > highest.Int() {
		r.key(key, "%s is out of bounds: from %s to %s", r.quote(key, textOf(v)), low, high)
	}
}

// textOf returns a value as the file would have it.
func textOf(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, _ := m.MarshalText() // ours do not fail
		return string(text)
	}
	return fmt.Sprint(v.Interface())
}

func (c *Config) checkListeners(r *report) {
	seen := map[Address]string{}
	if c.Metrics.Listen != "" {
		seen[c.Metrics.Listen] = "metrics.listen"
	}
	for i, a := range c.Listen {
		key := fmt.Sprintf("listen[%d]", i)
		if a == "" {
			r.key(key, "is empty: write an address such as 127.0.0.1:5000, or take it out")
			continue
		}
		if first, ok := seen[a]; ok && !strings.HasSuffix(string(a), ":0") {
			at, other := key, first
			if !r.has(key) { // the default of one, and the other set
				at, other = first, key
			}
			r.key(at, "%s is already in %s", r.quote(at, string(a)), other)
		}
		seen[a] = key
		if err := c.exposure(r.quote(key, string(a)), a.Local()); err != nil {
			r.key(key, "%v", err)
		}
	}
}

// CheckListener says whether the registry API may be served on a, a listener
// that the configuration does not name, such as one handed over by systemd.
func (c *Config) CheckListener(a net.Addr) error {
	tcp, ok := a.(*net.TCPAddr)
	return c.exposure(strconv.Quote(a.String()), !ok || tcp.IP.IsLoopback())
}

// exposure refuses to lend our credentials to whoever can reach us.
func (c *Config) exposure(address string, local bool) error {
	if local || len(c.Clients.Allow) > 0 {
		return nil
	}
	for _, u := range c.Upstreams {
		if u.SignsIn() {
			return fmt.Errorf("%s can be reached from other machines, which could then pull what our credentials for %s open: "+
				"set clients.allow to the networks of the clients, or listen on 127.0.0.1", address, u.Name)
		}
	}
	return nil
}

// checkNames reports names and aliases that mean two upstreams.
func (c *Config) checkNames(r *report) {
	seen := map[Pattern]string{}
	check := func(p Pattern, key string) {
		switch first, ok := seen[p]; {
		case ok && !r.has(key): // a built-in name that a configured upstream has taken
			r.key(first, "%s is the name of a built-in upstream: configure it under that name, or set builtin: false", r.quote(first, string(p)))
		case ok:
			r.key(key, "%s is already in %s", r.quote(key, string(p)), first)
		default:
			seen[p] = key
		}
	}
	for i, u := range c.Upstreams {
		path := fmt.Sprintf("upstreams[%d]", i)
		if u.Name != "" {
			check(u.Name, path+".name")
		}
		for j, a := range u.Aliases {
			check(a, fmt.Sprintf("%s.aliases[%d]", path, j))
		}
	}
}

func (u *Upstream) validate(r *report, path string) {
	if u.Name == "" {
		r.key(path+".name", "is missing: an upstream needs the host name that clients use")
	}
	for i, e := range u.Endpoints {
		e.validate(r, fmt.Sprintf("%s.endpoints[%d]", path, i), u.Name.Wild())
	}
	u.Credentials.validate(r, path+".credentials")
	u.Tags.validate(r, path+".tags")
	for i, rule := range u.Rules {
		at := fmt.Sprintf("%s.rules[%d]", path, i)
		if len(rule.Repositories) == 0 {
			r.key(at+".repositories", `is missing: a rule needs the repositories that it is for, ["**"] for all`)
		}
		if rule.Tags != nil {
			rule.Tags.validate(r, at+".tags")
		}
		if rule.Credentials != nil {
			rule.Credentials.validate(r, at+".credentials")
		}
	}
	for i, h := range u.Redirects.Allow {
		checkPortless(r, fmt.Sprintf("%s.redirects.allow[%d]", path, i), h)
	}
	for i, a := range u.ECR.Accounts {
		if _, err := strconv.ParseUint(a, 10, 64); err != nil || len(a) != 12 {
			key := fmt.Sprintf("%s.ecr.accounts[%d]", path, i)
			r.key(key, "%s is not an AWS account: write its 12 digits", r.quote(key, a))
		}
	}
}

func (e *Endpoint) validate(r *report, path string, wild bool) {
	checkPair(r, path+".tls", e.TLS.CertFile, e.TLS.KeyFile)
	key := path + ".url"
	if e.URL == "" {
		return
	}
	if wild {
		r.key(key, "cannot be set where the upstream's name holds *: each host is asked under its own name")
		return
	}
	u, err := url.Parse(e.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		r.key(key, "is not a URL of a registry: write https:// or http://, a host and if need be a path")
	case u.User != nil:
		r.key(key, "holds a user name or password: these belong into credentials")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(e.URL, "#"):
		r.key(key, "holds a query or fragment: write scheme, host and path only")
	case u.Scheme == "http" && e.TLS != EndpointTLS{}:
		r.key(path+".tls", "is of no use, as url says http://: write https:// or take tls out")
	default:
		if _, port, ok := cutPort(u.Host); !ok || port == "" && strings.HasSuffix(u.Host, ":") {
			r.key(key, "holds a host that cannot be: write https://, a host name and if need be :port and a path")
		}
	}
}

// validate reports keys that do not belong to the type, as whoever wrote them
// thinks that they are used.
func (c *Credentials) validate(r *report, path string) {
	password, file := c.Password.Reveal() != "", c.PasswordFile != ""
	if c.Type == CredentialsBasic {
		switch {
		case c.Username == "":
			r.key(path+".username", "is missing: type basic needs it")
		case password && file:
			r.key(path+".passwordFile", "is set beside password: leave one of them out")
		case !password && !file:
			r.key(path+".passwordFile", "is missing or empty, as is password: type basic needs one of them")
		}
	} else {
		for _, k := range []struct {
			name string
			set  bool
		}{{"username", c.Username != ""}, {"password", password}, {"passwordFile", file}} {
			if k.set {
				r.key(path+"."+k.name, "is of no use with type %s: write type: basic or take it out", c.Type)
			}
		}
	}
	if c.Type != CredentialsDocker && c.ConfigFile != "" {
		r.key(path+".configFile", "is of no use with type %s: write type: docker or take it out", c.Type)
	}
}

func (t *Tags) validate(r *report, path string) {
	for i, g := range t.Immutable {
		if strings.Contains(string(g), "/") {
			key := fmt.Sprintf("%s.immutable[%d]", path, i)
			r.key(key, "%s is not a pattern for tags: a tag holds no /", r.quote(key, string(g)))
		}
	}
}

func checkPair(r *report, path string, cert, key Path) {
	switch {
	case cert != "" && key == "":
		r.key(path+".keyFile", "is missing: certFile needs it")
	case cert == "" && key != "":
		r.key(path+".certFile", "is missing: keyFile needs it")
	}
}

func checkPortless(r *report, key string, p Pattern) {
	if _, port, _ := cutPort(string(p)); port != "" {
		r.key(key, "%s holds a port: write the host alone", r.quote(key, string(p)))
	}
}
