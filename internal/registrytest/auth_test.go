package registrytest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// challenge reads realm and scope of a WWW-Authenticate.
func challenge(header string) (realm, scope string) {
	for _, m := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(header, -1) {
		switch m[1] {
		case "realm":
			realm = m[2]
		case "scope":
			scope = m[2]
		}
	}
	return realm, scope
}

func tokenOf(t *testing.T, body []byte) (string, int) {
	t.Helper()
	var answer struct {
		Token     string `json:"token"`
		Access    string `json:"access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Token == "" || answer.Token != answer.Access {
		t.Fatalf("token endpoint: %v in %s", err, body)
	}
	return answer.Token, answer.ExpiresIn
}

func TestBearer(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Auth: registrytest.AuthBearer, TokenLife: 90 * time.Second})
	c := client(t, s, false)
	s.AddManifest(repo, "v1", "application/json", []byte("{}"))
	s.AddManifest("other", "v1", "application/json", []byte("{}"))
	manifest := s.URL() + "/v2/" + repo + "/manifests/v1"
	got := get(t, c, manifest)
	realm, scope := challenge(got.header.Get("WWW-Authenticate"))
	if got.status != 401 || realm != s.URL()+"/token" || scope != "repository:"+repo+":pull" {
		t.Fatalf("%d, realm %q, scope %q", got.status, realm, scope)
	}
	token, life := tokenOf(t, get(t, c, realm+"?service=registrytest&scope="+url.QueryEscape(scope)).body)
	if life != 90 {
		t.Errorf("expires_in %d, want 90", life)
	}
	for _, tt := range []struct {
		name, url, token string
		status           int
		problem          string
	}{
		{"its repository", manifest, token, 200, ""},
		{"ping", s.URL() + "/v2/", token, 200, ""},
		{"other repository", s.URL() + "/v2/other/manifests/v1", token, 401, "insufficient_scope"},
		{"forged", manifest, token + "x", 401, "invalid_token"},
		{"none", s.URL() + "/v2/", "", 401, ""},
	} {
		var header []string
		if tt.token != "" {
			header = []string{"Authorization", "Bearer " + tt.token}
		}
		got := get(t, c, tt.url, header...)
		says := got.header.Get("WWW-Authenticate")
		if got.status != tt.status || (tt.problem == "") == strings.Contains(says, "error=") || !strings.Contains(says, tt.problem) {
			t.Errorf("%s: %d, %q", tt.name, got.status, says)
		}
	}
	s.RevokeTokens()
	if got := get(t, c, manifest, "Authorization", "Bearer "+token); got.status != 401 {
		t.Errorf("revoked: %d, want 401", got.status)
	}
}

func TestTokensExpire(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Auth: registrytest.AuthBearer, TokenLife: time.Nanosecond})
	c := client(t, s, false)
	token, life := tokenOf(t, get(t, c, s.URL()+"/token").body)
	got := get(t, c, s.URL()+"/v2/", "Authorization", "Bearer "+token)
	if got.status != 401 || life != 1 || !strings.Contains(got.header.Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("%d, expires_in %d, %q", got.status, life, got.header.Get("WWW-Authenticate"))
	}
}

func TestTokenEndpointWithPassword(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Auth: registrytest.AuthBearer, User: "u", Password: "p"})
	c := client(t, s, false)
	for _, tt := range []struct {
		name, method, form, basic string
		status                    int
	}{
		{"anonymous", http.MethodGet, "", "", 401},
		{"wrong", http.MethodGet, "", "Basic dTp4", 401},
		{"right", http.MethodGet, "", "Basic dTpw", 200},
		{"form", http.MethodPost, "grant_type=password&username=u&password=p", "", 200},
		{"wrong form", http.MethodPost, "grant_type=password&username=u&password=x", "", 401},
	} {
		req, err := http.NewRequestWithContext(testContext(t), tt.method, s.URL()+"/token", strings.NewReader(tt.form))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if tt.basic != "" {
			req.Header.Set("Authorization", tt.basic)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, resp.StatusCode, tt.status)
		}
	}
}

func TestBasic(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Auth: registrytest.AuthBasic, User: "AWS", Password: "p"})
	c := client(t, s, false)
	for _, tt := range []struct {
		password string
		status   int
	}{{"p", 200}, {"x", 401}} {
		req, err := http.NewRequestWithContext(testContext(t), http.MethodGet, s.URL()+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("AWS", tt.password)
		got := get(t, c, s.URL()+"/v2/", "Authorization", req.Header.Get("Authorization"))
		if got.status != tt.status {
			t.Errorf("password %q: %s", tt.password, fmt.Sprint(got.status))
		}
	}
	if got := get(t, c, s.URL()+"/v2/"); got.header.Get("WWW-Authenticate") != `Basic realm="registrytest"` {
		t.Errorf("challenge %q", got.header.Get("WWW-Authenticate"))
	}
}
