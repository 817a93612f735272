package config_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/quick"

	"github.com/goccy/go-yaml"

	"github.com/entrepot/entrepot/config"
)

func TestValuesRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	spread := func() int64 { return int64(rng.Uint64()>>(1+rng.IntN(63))<<rng.IntN(4)) & (1<<63 - 1) }
	check := func(name string, v encoding.TextMarshaler, back encoding.TextUnmarshaler, same func() bool) {
		text, err := v.MarshalText()
		if err == nil {
			err = back.UnmarshalText(text)
		}
		if err != nil || !same() {
			t.Fatalf("%s %#v is written as %q, read as %v (%v)", name, v, text, back, err)
		}
	}
	if err := quick.Check(func() bool {
		s, d := config.Size(spread()), config.Duration(spread())
		share := config.Share{Percent: rng.IntN(100)}
		if share.Percent == 0 {
			share.Bytes = s
		}
		quota := config.Quota(max(spread(), 1<<20))
		var s2 config.Size
		var d2 config.Duration
		var share2 config.Share
		var quota2 config.Quota
		check("size", s, &s2, func() bool { return s == s2 })
		check("duration", d, &d2, func() bool { return d == d2 })
		check("share", share, &share2, func() bool { return share == share2 })
		check("quota", quota, &quota2, func() bool { return quota == quota2 })
		return true
	}, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
}

func TestSizeText(t *testing.T) {
	for text, want := range map[string]config.Size{
		"0": 0, "4096": 4 * config.KiB, "64KiB": 64 << 10, "8MiB": 8 << 20, "200GiB": 200 << 30, "2TiB": 2 << 40, "0GiB": 0,
		"8388607TiB": 8388607 << 40, "9223372036854775807": 1<<63 - 1,
	} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s = %d, %v; want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1.5GiB", "8 MiB", "8mib", "8M", "8MB", "KiB", "0x10", "8388608TiB", "9223372036854775808", "1_000"} {
		var s config.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d", text, s)
		}
	}
	for s, want := range map[config.Size]string{0: "0", 1023: "1023", 1024: "1KiB", 1536: "1536", 1 << 40: "1TiB", 1536 << 20: "1536MiB"} {
		if s.String() != want {
			t.Errorf("%d is written as %s, want %s", int64(s), s, want)
		}
	}
}

func TestShares(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct{ got, want int64 }{
		{config.Share{Percent: 20}.Of(1000), 200},
		{config.Share{Percent: 33}.Of(199), 65},
		{config.Share{Percent: 99}.Of(1<<63 - 1), 9131138316486228048},
		{config.Share{Bytes: 7}.Of(1000), 7},
		{config.Share{}.Of(1000), 0},
		{config.Quota(0).Of(100 * gib), 20 * gib},
		{config.Quota(0).Of(1000 * gib), 100 * gib},
		{config.Quota(5 * gib).Of(gib), 5 * gib},
	} {
		if c.got != c.want {
			t.Errorf("got %d, want %d", c.got, c.want)
		}
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no string // separated by blanks
	}{
		{pattern: "docker.io", yes: "docker.io", no: "xdocker.io docker.iox docker.io:443 docker-io a.docker.io"},
		{pattern: "Registry.Example.com:5000", yes: "registry.example.com:5000", no: "registry.example.com registry.example.com:5001"},
		{pattern: "*.pkg.dev", yes: "europe-docker.pkg.dev a.pkg.dev", no: "pkg.dev .pkg.dev a.b.pkg.dev a.pkg.dev:443 a.pkg.dev.evil.example a/b.pkg.dev a@b.pkg.dev a:b.pkg.dev A.pkg.dev %2e.pkg.dev é.pkg.dev"},
		{pattern: "*-docker.pkg.dev", yes: "eu-docker.pkg.dev", no: "docker.pkg.dev eu.docker.pkg.dev"},
		{pattern: "a*b*c.example.com", yes: "abc.example.com axbybc.example.com", no: "axb.example.com a.bc.example.com"},
		{pattern: "*.example.com:5000", yes: "a.example.com:5000", no: "a.example.com a.example.com:50000 a.example.com:05000"},
		{pattern: "*.dkr.ecr.*.amazonaws.com", yes: "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
			no: "123456789012.dkr.ecr.eu-west-1.amazonaws.com.cn 123456789012.dkr.ecr.amazonaws.com 123456789012.dkr.ecr.a.b.amazonaws.com 1.dkr.ecr.x.amazonaws.com.evil.example"},
		{pattern: "[::1]:5000", yes: "[::1]:5000", no: "[::1] ::1:5000"},
	} {
		var p config.Pattern
		if err := p.UnmarshalText([]byte(c.pattern)); err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		for _, host := range strings.Fields(c.yes) {
			if !p.Match(host) {
				t.Errorf("%s is not %s", host, p)
			}
		}
		for _, host := range append(strings.Fields(c.no), "") {
			if p.Match(host) {
				t.Errorf("%s is %s", host, p)
			}
		}
	}
	for _, text := range []string{"", ".", "a..b", ".a", "a.", "*", "a.*", "*:5000", "a b", "a/b", "a:b", "a:99999", "[::1", "::1", "[a]", "https://a", "a?b", "[*]", "ä.example", strings.Repeat("a", 254)} {
		var p config.Pattern
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for a pattern", text)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct{ glob, yes, no string }{
		{"library/alpine", "library/alpine", "library alpine library/alpine/x xlibrary/alpine"},
		{"team/*", "team/a team/a.b-c", "team team/a/b"},
		{"team/**", "team/a team/a/b", "team teams/a x/team/a"},
		{"**", "a a/b a/b/c", ""},
		{"*", "a", "a/b"},
		{"**/base", "base a/base a/b/base", "a/bases base/a"},
		{"a/**/z", "a/z a/b/z a/b/c/z", "a z a/b a/z/b"},
		{"a/**/b/**/c", "a/b/c a/x/b/y/c a/b/b/c a/b/c/b/c", "a/c a/b/x a/x/c"},
		{"**/a/**", "a/b x/a/b a/a a/a/a", "a x/a b/c"},
		{"v*", "v1 v v1.2.3", "1 xv"},
		{"v1.*-rc*", "v1.2-rc1", "v1.2 v1-rc1"},
	} {
		var g config.Glob
		if err := g.UnmarshalText([]byte(c.glob)); err != nil {
			t.Errorf("%s: %v", c.glob, err)
			continue
		}
		for _, name := range strings.Fields(c.yes) {
			if !g.Match(name) {
				t.Errorf("%s does not match %s", g, name)
			}
		}
		for _, name := range append(strings.Fields(c.no), "") {
			if g.Match(name) {
				t.Errorf("%s matches %s", g, name)
			}
		}
	}
}

// However it is printed, a secret is not in it, and its presence is.
func TestSecretsDoNotPrint(t *testing.T) {
	var proxy, token config.Proxy
	if err := proxy.UnmarshalText([]byte("http://user:hunter2@proxy.example.com")); err != nil {
		t.Fatal(err)
	}
	if err := token.UnmarshalText([]byte("http://hunter2@proxy.example.com")); err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Value any
		In    []any
	}
	for _, v := range []any{config.NewSecret("hunter2"), proxy, token} {
		h := holder{v, []any{v}}
		var out []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
			out = append(out, fmt.Sprintf(verb, v), fmt.Sprintf(verb, h))
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v, "h", h)
		j, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		y, err := yaml.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(append(out, log.String(), string(j), string(y)), "\n")
		if strings.Contains(all, "hunter2") || strings.Contains(strings.ToLower(all), "68756e74657232") {
			t.Errorf("%T shows itself:\n%s", v, all)
		}
		if !strings.Contains(out[0], "redacted") && !strings.Contains(out[0], "xxxxx") {
			t.Errorf("%T does not say that it is set: %s", v, out[0])
		}
	}
	if s := (config.Secret{}).String(); s != "" {
		t.Errorf("an empty secret shows %q", s)
	}
	if config.NewSecret("hunter2").Reveal() != "hunter2" || proxy.URL().User.String() != "user:hunter2" {
		t.Error("secrets are lost")
	}
}
