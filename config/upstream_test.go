package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot/entrepot/config"
)

func TestLookupBuiltin(t *testing.T) {
	c := config.Default()
	for host, want := range map[string]struct{ name, host, url string }{
		"docker.io":            {"docker.io", "docker.io", "https://registry-1.docker.io"},
		"Index.Docker.io":      {"docker.io", "docker.io", "https://registry-1.docker.io"},
		"registry-1.docker.io": {"docker.io", "docker.io", "https://registry-1.docker.io"},
		"ghcr.io":              {"ghcr.io", "ghcr.io", "https://ghcr.io"},
		"quay.io":              {"quay.io", "quay.io", "https://quay.io"},
		"gcr.io":               {"gcr.io", "gcr.io", "https://gcr.io"},
		"eu-docker.pkg.dev":    {"*.pkg.dev", "eu-docker.pkg.dev", "https://eu-docker.pkg.dev"},
		"registry.k8s.io":      {"registry.k8s.io", "registry.k8s.io", "https://registry.k8s.io"},
		"mcr.microsoft.com":    {"mcr.microsoft.com", "mcr.microsoft.com", "https://mcr.microsoft.com"},
		"public.ecr.aws":       {"public.ecr.aws", "public.ecr.aws", "https://public.ecr.aws"},
	} {
		u, got, ok := c.Lookup(host)
		if !ok || string(u.Name) != want.name || got != want.host || u.EndpointsFor(got)[0].URL != want.url {
			t.Errorf("%s: %v %s %v", host, u, got, ok)
		}
	}
	for _, host := range []string{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com", "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
		"123456789012.dkr-ecr.eu-west-1.on.aws", "123456789012.dkr-ecr-fips.us-east-1.on.aws",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
		"123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu", "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
		"123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", "123456789012.dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
		"123456789012.dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
	} {
		u, got, ok := c.Lookup(host)
		if !ok || u.Name != "*.dkr.ecr.*.amazonaws.com" || got != host || u.EndpointsFor(got)[0].URL != "https://"+host {
			t.Errorf("%s: %v %s %v", host, u, got, ok)
		}
	}
	for _, host := range []string{"", "evil.example", "docker.io.evil.example", "pkg.dev", "a.b.pkg.dev", "docker.io:8443", "localhost",
		"169.254.169.254", "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", "*.pkg.dev"} {
		if u, _, ok := c.Lookup(host); ok {
			t.Errorf("%q is allowed as %s", host, u.Name)
		}
	}
}

func TestUpstreamsOfAFile(t *testing.T) {
	c := load(t, "good-upstreams.yaml")
	u, host, ok := c.Lookup("registry")
	if !ok || host != "registry.example.com:5000" || !u.SignsIn() || u.Credentials.Password.Reveal() != "hunter2" {
		t.Fatal(u, host, ok)
	}
	e := u.EndpointsFor(host)
	if e[0].URL != "http://10.1.2.3:5000/prefix" || !e[0].Proxy.Direct() || e[0].Proxy.URL() != nil {
		t.Error(e[0])
	}
	if e[1].URL != "https://registry.example.com:5000" || e[1].Proxy.Direct() || e[1].Proxy.URL().Host != "proxy.example.com:3128" {
		t.Error(e[1])
	}
	// The built-in upstream's keys are kept where the file says nothing.
	u, host, _ = c.Lookup("index.docker.io")
	if e := u.EndpointsFor(host); host != "docker.io" || len(e) != 1 || e[0].URL != "https://registry-1.docker.io" || e[0].Proxy.URL() == nil {
		t.Error(host, e)
	}
	// Accounts narrow, and what one upstream takes another no longer has.
	for host, want := range map[string]string{
		"012345678901.dkr.ecr.eu-west-1.amazonaws.com":      "*.dkr.ecr.*.amazonaws.com",
		"123456789012.dkr-ecr.eu-west-1.on.aws":             "*.dkr.ecr.*.amazonaws.com",
		"999999999999.dkr.ecr.eu-west-1.amazonaws.com":      "",
		"999999999999.dkr-ecr.eu-west-1.on.aws":             "",
		"999999999999.dkr.ecr-fips.us-east-1.amazonaws.com": "*.dkr.ecr-fips.*.amazonaws.com",
	} {
		got := ""
		if u, _, ok := c.Lookup(host); ok {
			got = string(u.Name)
		}
		if got != want {
			t.Errorf("%s is asked as %q, want %q", host, got, want)
		}
	}
}

func TestBuiltinOff(t *testing.T) {
	c := load(t, "good-builtin-off.yaml")
	if len(c.Upstreams) != 1 || c.DefaultUpstream != "" {
		t.Errorf("%v, default %q", c.Upstreams, c.DefaultUpstream)
	}
	c = parse(t, "builtin: false\nupstreams: [{name: docker.io}]\n")
	u, _, ok := c.Lookup("index.docker.io")
	if !ok || len(c.Upstreams) != 1 || c.DefaultUpstream != "docker.io" || u.Endpoints[0].URL != "https://registry-1.docker.io" {
		t.Errorf("%v, default %q", c.Upstreams, c.DefaultUpstream)
	}
}

// Literal names come before patterns, patterns of the file before built-in ones.
func TestLookupOrder(t *testing.T) {
	c := parse(t, `upstreams:
  - name: "*.example.com"
  - name: "a*.example.com"
  - name: "registry.other"
    aliases: [abc.example.com]
  - name: "*-docker.pkg.dev"
  - name: xyz.pkg.dev
`)
	for host, want := range map[string]string{
		"abc.example.com": "registry.other", "abd.example.com": "*.example.com",
		"eu-docker.pkg.dev": "*-docker.pkg.dev", "xyz.pkg.dev": "xyz.pkg.dev", "abc.pkg.dev": "*.pkg.dev",
	} {
		if u, _, ok := c.Lookup(host); !ok || string(u.Name) != want {
			t.Errorf("%s is %v, want %s", host, u, want)
		}
	}
}

func TestPolicy(t *testing.T) {
	u, _, _ := load(t, "good-upstreams.yaml").Lookup("registry")
	minute := config.Duration(time.Minute)
	upstream := config.Tags{FreshFor: minute, StaleFor: 1440 * minute, WaitFresh: minute / 20}
	team := upstream
	team.FreshFor, team.Immutable = 60*minute, []config.Glob{"v*"}
	for repository, want := range map[string]struct {
		allow bool
		tags  config.Tags
		typ   string
	}{
		"team/a/b": {true, team, "basic"},
		"public/a": {true, upstream, "anonymous"},
		"secret/a": {false, upstream, "basic"},
	} {
		p := u.Policy(repository)
		if diff := cmp.Diff(want.tags, p.Tags); diff != "" || p.Allow != want.allow || p.Credentials.Type != want.typ {
			t.Errorf("%s: allow %v, type %s, tags (-want +got):\n%s", repository, p.Allow, p.Credentials.Type, diff)
		}
	}
	if tags := u.Policy("team/a").Tags; tags.Moves("v1") || !tags.Moves("latest") {
		t.Error("immutable tags are not told from others")
	}
	if !config.Default().Upstreams[0].Policy("library/alpine").Allow {
		t.Error("without rules a repository is refused")
	}
}

// A rule that names a pattern twice over is still read: rules are exceptions, in order.
func TestRuleOrder(t *testing.T) {
	c := parse(t, strings.TrimSpace(`
upstreams:
  - name: registry.example.com
    rules:
      - {repositories: ["a/b", "a/c"], allow: false}
      - {repositories: ["a/*"]}
      - {repositories: ["**"], allow: false}
`))
	u, _, _ := c.Lookup("registry.example.com")
	for repository, want := range map[string]bool{"a/b": false, "a/c": false, "a/d": true, "b": false} {
		if got := u.Policy(repository).Allow; got != want {
			t.Errorf("%s: allow %v", repository, got)
		}
	}
}
