package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/entrepot/entrepot/internal/fault"
)

func TestRedirects(t *testing.T) {
	var auth counter
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		auth.add("other:" + r.Header.Get("Authorization"))
		w.Write([]byte("x"))
	})
	back := serve(t, func(w http.ResponseWriter, r *http.Request) {
		auth.add("back:" + r.Header.Get("Authorization"))
		if strings.HasSuffix(r.URL.Path, "/2") {
			w.Write([]byte("x"))
			return
		}
		http.Redirect(w, r, r.URL.Query().Get("to"), 302)
	})
	var to string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", "Basic")
				w.WriteHeader(401)
				return
			}
			w.Header().Set("Location", to)
			w.WriteHeader(307)
			return
		}
		if r.URL.Path == "/loop" {
			if auth.add("loop") > maxRedirects {
				t.Error("followed beyond the limit")
			}
			http.Redirect(w, r, "/loop", 302)
			return
		}
		auth.add("own:" + r.Header.Get("Authorization"))
		w.Write([]byte("x"))
	})
	const basic = "Basic dTpodW50ZXIy"
	for name, tc := range map[string]struct {
		to   string
		sees string // what the target got as Authorization
		kind fault.Kind
		bad  bool
	}{
		"relative":                   {to: "/elsewhere", sees: "own:" + basic},
		"another port":               {to: other.URL + "/b?sig=1", sees: "other:"},
		"credentials in the address": {to: strings.Replace(other.URL, "//", "//me:hunter2@", 1), sees: "other:"},
		"there and back again":       {to: back.URL + "/1?to=" + s.URL + "/elsewhere", sees: "own:"},
		"in circles":                 {to: "/loop", bad: true, kind: fault.Refused},
		"nowhere":                    {to: "", bad: true, kind: fault.Damaged},
		"rubbish":                    {to: "http://[::1?sig=1", bad: true, kind: fault.Damaged},
		"a file":                     {to: "file:///etc/passwd", bad: true, kind: fault.Damaged},
		"another scheme":             {to: "gopher://host/x?sig=1", bad: true, kind: fault.Refused},
		"metadata":                   {to: "http://169.254.169.254/latest?sig=1", bad: true, kind: fault.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			to = tc.to
			before := auth.get(tc.sees)
			c := client(t, signedIn, s.URL)
			resp, err := c.GetBlob(t.Context(), "a", digest([]byte("x")), 0, -1)
			if tc.bad {
				wantFault(t, err, tc.kind)
				return
			}
			if got := read(t, resp, err); got != "x" || auth.get(tc.sees) != before+1 {
				t.Errorf("got %q; the target saw %v", got, auth.m)
			}
		})
	}
}

func TestDowngradeIsRefused(t *testing.T) {
	plain := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Error("asked without TLS") })
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+"?sig=1", 307)
	}))
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c := client(t, func(o *Options) { o.Endpoints[0].TLS = &tls.Config{RootCAs: roots} }, s.URL)
	_, err := c.GetBlob(t.Context(), "a", digest(nil), 0, -1)
	wantFault(t, err, fault.Refused)
	_, err = c.HeadManifest(t.Context(), "a", "l")
	wantFault(t, err, fault.Refused)
}
