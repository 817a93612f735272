package main

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/entrepot/entrepot/internal/registrytest"
)

const (
	puller    = "puller"
	password  = "correct-horse-battery"
	signature = "5f3c-signed-by-storage" // in what upstreams say and where they redirect to
)

// troubles are what makes programs print what they should not: addresses in
// errors, upstreams that repeat what they were sent.
var troubles = map[string]registrytest.Fault{
	"cut at the storage":     {Match: registrytest.Match{Kind: registrytest.KindStorage}, CutAt: -1},
	"garbage at the storage": {Match: registrytest.Match{Kind: registrytest.KindStorage}, Garbage: true},
	"refused by the storage": {Match: registrytest.Match{Kind: registrytest.KindStorage}, Status: http.StatusForbidden, Body: "<Error>" + signature + "</Error>"},
	"redirect to nobody":     {Match: registrytest.Match{Kind: registrytest.KindBlob}, Redirect: "http://127.0.0.1:1/blob?X-Amz-Signature=" + signature},
	"redirect out of bounds": {Match: registrytest.Match{Kind: registrytest.KindBlob}, Redirect: "http://169.254.169.254/blob?X-Amz-Signature=" + signature},
	"redirect without sense": {Match: registrytest.Match{Kind: registrytest.KindBlob}, Redirect: "http://[::bad/blob?X-Amz-Signature=" + signature},
	"redirect with user":     {Match: registrytest.Match{Kind: registrytest.KindBlob}, Redirect: "http://" + puller + ":" + signature + "@127.0.0.1:1/blob"},
	"an answer that repeats": {Match: registrytest.Match{Kind: registrytest.KindBlob}, Status: http.StatusForbidden,
		Body: `{"errors":[{"code":"DENIED","message":"no access to https://storage.example.com/blob?sig=` + signature + ` for you"}]}`},
	"no tokens":      {Match: registrytest.Match{Kind: registrytest.KindToken}, Status: http.StatusInternalServerError},
	"cut tokens":     {Match: registrytest.Match{Kind: registrytest.KindToken}, CutAt: -1},
	"garbage tokens": {Match: registrytest.Match{Kind: registrytest.KindToken}, Body: `{"token": 7`, Status: http.StatusOK},
	"refused tokens": {Match: registrytest.Match{Kind: registrytest.KindToken}, Status: http.StatusUnauthorized},
}

// TestSecretsStayInside: whatever goes well or wrong, at the highest log level, nothing that opens
// the upstream leaves the daemon but to the upstream.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthBearer} {
		t.Run(string(auth), func(t *testing.T) {
			d, err := newDemo(registrytest.Options{Auth: auth, User: puller, Password: password, Storage: true})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			api, metrics, env := addresses(t)
			p := runDaemon(t, append(env, "UPSTREAM="+d.Host(), "PASSWORD="+password), dockerConfig+`
listen: ["${API}"]
log: {level: debug}
fetch: {timeouts: {headers: 300ms, patience: 400ms}}
upstreams:
  - name: docker.io
    endpoints: [{url: "http://${UPSTREAM}"}]
    credentials: {type: basic, username: `+puller+`, password: "${PASSWORD}"}
`)
			said := pullWithTrouble(t, d, "http://"+api)
			write(t, p.cmd.Dir+"/config.yaml", []byte("fetch: {parallels: \"${PASSWORD}\"}\nlisten: [\"${PASSWORD}\"]\n"))
			if err := p.hup(); err != nil {
				t.Fatal(err)
			}
			said["metrics"] = get(t, "http://"+metrics+"/metrics")
			socket := p.cmd.Dir + "/admin.sock"
			for _, path := range []string{"/v1/status", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2"} {
				said["admin"+path] = get(t, "http://admin"+path, "-unix", socket)
			}
			said["log"] = p.log.String()
			wantNone(t, said, secretsOf(t, d))
		})
	}
}

// pullWithTrouble pulls something, well and with each trouble, and returns the answers.
func pullWithTrouble(t *testing.T, d *demo, api string) map[string]string {
	t.Helper()
	said := map[string]string{
		"pull of the manifest": get(t, api+"/v2/library/demo/manifests/1"),
		"pull of a blob":       get(t, api+"/v2/library/demo/blobs/"+d.image.Layers[0].Digest.String()),
		"pull of the large":    get(t, api+"/v2/library/demo/blobs/"+d.image.Layers[1].Digest.String()),
		"unknown tag":          get(t, api+"/v2/library/demo/manifests/none"),
		"HEAD":                 get(t, api+"/v2/team/tools/blobs/"+d.image.Layers[0].Digest.String(), "-X", "HEAD"),
	}
	for _, name := range []string{"pull of the manifest", "pull of a blob", "pull of the large", "HEAD"} {
		if !strings.HasPrefix(said[name], "HTTP/1.1 200") {
			t.Fatalf("%s: %s", name, said[name])
		}
	}
	for name, fault := range troubles {
		repo := "trouble/" + strings.ReplaceAll(name, " ", "-")
		blob := d.AddBlob(repo, []byte(name))
		d.RevokeTokens()
		d.Break(fault)
		said[name] = get(t, api+"/v2/"+repo+"/blobs/"+blob.Digest.String())
		d.Heal()
	}
	return said
}

// secretsOf returns all that the registry has been shown, or has given, for nobody else to see.
func secretsOf(t *testing.T, d *demo) map[string]string {
	t.Helper()
	secrets := map[string]string{
		password:  "the password",
		signature: "the signature of an address",
		base64.StdEncoding.EncodeToString([]byte(puller + ":" + password)): "the password in an Authorization header",
	}
	authorized, signed := 0, 0
	for _, r := range d.Log() {
		if _, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
			authorized++
			secrets[value] = "what came in an Authorization header"
		}
		if r.Kind != registrytest.KindStorage {
			continue
		}
		u, err := url.Parse(r.URL)
		if err != nil {
			t.Fatal(err)
		}
		signed++
		secrets[u.RawQuery] = "the query of a signed address"
	}
	if authorized == 0 || signed == 0 {
		t.Fatalf("%d requests with credentials, %d to signed addresses: this test tests nothing", authorized, signed)
	}
	return secrets
}

// wantNone looks for secrets, as they are and encoded for a URL.
func wantNone(t *testing.T, said, secrets map[string]string) {
	t.Helper()
	for where, text := range said {
		for secret, what := range secrets {
			if strings.Contains(text, secret) || strings.Contains(text, url.QueryEscape(secret)) {
				t.Errorf("%s shows %s (%s)", where, what, secret)
			}
		}
	}
}
