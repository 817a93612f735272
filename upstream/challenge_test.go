package upstream

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenges(t *testing.T) {
	type params = map[string]string
	for name, tc := range map[string]struct {
		in   []string
		want []challenge
	}{
		"none": {},
		"bearer": {
			[]string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"`},
			[]challenge{{"bearer", params{"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:a/b:pull,push"}}},
		},
		"two in one header": {
			[]string{`Basic realm="x y", Bearer realm="https://h/t" , error="invalid_token"`},
			[]challenge{{"basic", params{"realm": "x y"}}, {"bearer", params{"realm": "https://h/t", "error": "invalid_token"}}},
		},
		"two headers, odd case, blanks": {
			[]string{`BASIC`, "bearer  Realm = \"a\\\"b\" ,\tSERVICE=plain"},
			[]challenge{{"basic", params{}}, {"bearer", params{"realm": `a"b`, "service": "plain"}}},
		},
		"not closed":      {[]string{`Bearer realm="https://h/t`}, []challenge{{"bearer", params{"realm": "https://h/t"}}}},
		"first of a name": {[]string{`Bearer realm=a,realm=b`}, []challenge{{"bearer", params{"realm": "a"}}}},
		"rubbish":         {[]string{`"=,`, `Bearer realm=a "`}, []challenge{{"bearer", params{"realm": "a"}}}},
	} {
		got := parseChallenges(tc.in)
		if d := cmp.Diff(tc.want, got, cmp.AllowUnexported(challenge{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://h/t",service="s",scope="repository:a:pull,push"`)
	f.Add(`Basic abc==, Digest qop="auth,auth-int"`)
	f.Add(`a=b=c,"`)
	f.Fuzz(func(t *testing.T, s string) {
		got := parseChallenges([]string{s, s})
		if len(got) > maxChallenges {
			t.Fatalf("%d challenges", len(got))
		}
		for _, ch := range got {
			if ch.scheme == "" || ch.scheme != strings.ToLower(ch.scheme) {
				t.Fatalf("scheme %q", ch.scheme)
			}
			for k := range ch.params {
				if k != strings.ToLower(k) {
					t.Fatalf("parameter %q", k)
				}
			}
		}
	})
}
