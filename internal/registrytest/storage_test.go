package registrytest_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/entrepot/entrepot/internal/registrytest"
)

func TestStorage(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Storage: true, AddressLife: time.Hour})
	c := client(t, s, false)
	d := s.AddBlob(repo, []byte("layer"))
	got := get(t, c, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String())
	where := got.header.Get("Location")
	if got.status != 307 || !strings.HasPrefix(where, s.StorageURL()+"/") {
		t.Fatalf("%d to %q", got.status, where)
	}
	for _, tt := range []struct {
		name, method, url, auth string
		status                  int
	}{
		{"as signed", http.MethodGet, where, "", 200},
		{"with credentials", http.MethodGet, where, "Bearer x", 400},
		{"other method", http.MethodHead, where, "", 403},
		{"other signature", http.MethodGet, where + "0", "", 403},
		{"no signature", http.MethodGet, s.StorageURL() + "/" + repo + "/" + d.Digest.String(), "", 403},
		{"later expiry", http.MethodGet, strings.Replace(where, "expires=", "expires=9", 1), "", 403},
	} {
		var header []string
		if tt.auth != "" {
			header = []string{"Authorization", tt.auth}
		}
		if got := ask(testContext(t), t, c, tt.method, tt.url, header...); got.status != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, got.status, tt.status)
		}
	}
	if log := s.Log(); !log[2].Authorized || log[1].Authorized || log[2].Kind != registrytest.KindStorage || log[2].Ref != d.Digest.String() {
		t.Errorf("logged %+v", log[1:3])
	}
}

func TestAddressesExpire(t *testing.T) {
	s := registrytest.Start(t, registrytest.Options{Storage: true, AddressLife: time.Nanosecond})
	c := client(t, s, false)
	d := s.AddBlob(repo, []byte("layer"))
	where := get(t, c, s.URL()+"/v2/"+repo+"/blobs/"+d.Digest.String()).header.Get("Location")
	if got := get(t, c, where); got.status != 403 || !strings.Contains(string(got.body), "expired") {
		t.Errorf("%d %s, want 403 expired", got.status, got.body)
	}
}
