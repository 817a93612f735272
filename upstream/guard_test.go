package upstream

import (
	"net/http"
	"net/netip"
	"net/url"
	"testing"

	"github.com/entrepot/entrepot/internal/fault"
)

func TestClassify(t *testing.T) {
	for addr, want := range map[string]zone{
		"8.8.8.8": zonePublic, "2606:4700::1": zonePublic, "172.32.0.1": zonePublic,
		"10.1.2.3": zonePrivate, "172.16.0.1": zonePrivate, "192.168.1.1": zonePrivate, "100.64.0.1": zonePrivate, "fd12::1": zonePrivate,
		"::ffff:10.0.0.1": zonePrivate, "64:ff9b::10.0.0.1": zonePrivate, "2002:a00:1::": zonePrivate,
		"127.0.0.1": zoneLoopback, "127.9.9.9": zoneLoopback, "::1": zoneLoopback, "::ffff:127.0.0.1": zoneLoopback, "64:ff9b::7f00:1": zoneLoopback, "::127.0.0.1": zoneLoopback,
		"169.254.169.254": zoneForbidden, "169.254.170.2": zoneForbidden, "fe80::1": zoneForbidden, "fe80::1%eth0": zoneForbidden,
		"fd00:ec2::254": zoneForbidden, "100.100.100.200": zoneForbidden, "168.63.129.16": zoneForbidden,
		"224.0.0.1": zoneForbidden, "ff02::1": zoneForbidden, "0.0.0.0": zoneForbidden, "::": zoneForbidden, "255.255.255.255": zoneForbidden, "0.1.2.3": zoneForbidden,
		"::ffff:169.254.169.254": zoneForbidden, "64:ff9b::a9fe:a9fe": zoneForbidden, "64:ff9b:1::a9fe:a9fe": zoneForbidden, "2002:a9fe:a9fe::1": zoneForbidden,
		"2001:0:1:1:1:1:5601:5601": zoneForbidden, // Teredo: the client's address is inverted
	} {
		if got := classify(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if classify(netip.Addr{}) != zoneForbidden {
		t.Error("no address at all is let through")
	}
}

func TestLiteralZone(t *testing.T) {
	for host, want := range map[string]zone{
		"localhost": zoneLoopback, "a.LOCALHOST.": zoneLoopback, "127.0.0.1": zoneLoopback, "::1": zoneLoopback,
		"10.0.0.1": zonePrivate, "8.8.8.8": zonePublic, "169.254.169.254": zoneForbidden, "169.254.169.254.": zoneForbidden,
		"metadata.google.internal": zoneForbidden, "2130706433": zoneForbidden, "0x7f.1": zoneForbidden, "0177.0.0.1": zoneForbidden, "0x7f000001": zoneForbidden, "127.1": zoneForbidden,
	} {
		if got, ok := literalZone(host); !ok || got != want {
			t.Errorf("%s: %v %v, want %v", host, got, ok, want)
		}
	}
	for _, host := range []string{"docker.io", "registry.internal", "3com.example", "123.dkr.ecr.eu-west-1.amazonaws.com"} {
		if z, ok := literalZone(host); ok {
			t.Errorf("%s is taken for an address: %v", host, z)
		}
	}
}

func TestRules(t *testing.T) {
	ecr := "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
	for name, tc := range map[string]struct {
		registry, host string
		wild, tls      bool
		near           zone
		allow          string
		want           zone
	}{
		"own host":                      {registry: "r.example", host: "r.example", want: zoneLoopback},
		"own host, by pattern":          {registry: "r.example", host: "r.example", wild: true, want: zonePrivate},
		"foreign, upstream public":      {registry: "r.example", host: "cdn.example", tls: true, want: zonePublic},
		"foreign, upstream private":     {registry: "r.example", host: "cdn.example", near: zonePrivate, want: zonePrivate},
		"foreign, upstream on loopback": {registry: "r.example", host: "cdn.example", near: zoneLoopback, want: zoneLoopback},
		"foreign, allowed":              {registry: "r.example", host: "minio.lan", allow: "minio.lan", want: zonePrivate},
		"foreign, another allowed":      {registry: "r.example", host: "minio.lan", allow: "other.lan", want: zonePublic},
		"S3 of ECR":                     {registry: ecr, host: "bucket.s3.eu-west-1.amazonaws.com", tls: true, want: zonePrivate},
		"S3 of ECR without TLS":         {registry: ecr, host: "bucket.s3.eu-west-1.amazonaws.com", want: zonePublic},
		"S3 of somebody else":           {registry: "r.example", host: "bucket.s3.eu-west-1.amazonaws.com", tls: true, want: zonePublic},
		"not quite S3":                  {registry: ecr, host: "s3.eu-west-1.amazonaws.com.evil.example", tls: true, want: zonePublic},
		"EC2 host of ECR":               {registry: ecr, host: "ec2-1-2-3-4.compute.amazonaws.com", tls: true, want: zonePublic},
	} {
		o := Options{Wild: tc.wild, AllowRedirect: func(h string) bool { return h == tc.allow }}
		g := newGuardian(tc.registry, o)
		if got := g.ruleFor(tc.host, max(tc.near, g.literal), tc.tls).upTo; got != tc.want {
			t.Errorf("%s: up to %v, want %v", name, got, tc.want)
		}
	}
}

func TestIsS3(t *testing.T) {
	for host, want := range map[string]bool{
		"b.s3.amazonaws.com": true, "s3.amazonaws.com": true, "b.s3.eu-west-1.amazonaws.com": true, "s3.eu-west-1.amazonaws.com": true,
		"b.s3.dualstack.eu-west-1.amazonaws.com": true, "b.s3-eu-west-1.amazonaws.com": true, "b.s3.cn-north-1.amazonaws.com.cn": true,
		"amazonaws.com": false, "s3.evil.example": false, "ec2.eu-west-1.amazonaws.com": false, "xs3.amazonaws.com": false,
	} {
		if got := isS3(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

// A name that is private or loopback only when it is connected to: the check is on the address.
func TestRebinding(t *testing.T) {
	secret := serve(t, func(w http.ResponseWriter, _ *http.Request) { t.Error("the request got through") })
	for name, tc := range map[string]struct {
		wild bool
		addr string
	}{
		"a pattern's host on loopback": {wild: true, addr: "127.0.0.1"},
		"metadata":                     {addr: "169.254.169.254"},
		"metadata, mapped":             {addr: "::ffff:169.254.169.254"},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, func(o *Options) { o.Resolve, o.Wild = fixed(tc.addr), tc.wild }, named(t, secret.URL, "r.example"))
			_, err := c.HeadManifest(t.Context(), "x", "latest")
			wantFault(t, err, fault.Refused)
		})
	}
}

func TestOwnNameMayResolveToLoopback(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	c := client(t, func(o *Options) { o.Resolve = fixed("127.0.0.1") }, named(t, s.URL, "r.example"))
	if _, err := c.HeadManifest(t.Context(), "x", "latest"); err != nil {
		t.Fatal(err)
	}
}

// Forbidden addresses that are spelled out are refused before a proxy is asked.
func TestProxy(t *testing.T) {
	var seen counter
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen.add(r.URL.String())
		if r.URL.Host == "r.example" && r.URL.Path == "/v2/x/blobs/"+digest(nil).String() {
			http.Redirect(w, r, "http://169.254.169.254/latest?sig=1", http.StatusTemporaryRedirect)
		}
	})
	c := client(t, func(o *Options) { o.Endpoints = []Endpoint{{URL: "http://r.example", Proxy: proxy.URL}} })
	if _, err := c.HeadManifest(t.Context(), "x", "latest"); err != nil {
		t.Fatal(err) // the proxy is on loopback, and was chosen by the operator
	}
	if seen.get("http://r.example/v2/x/manifests/latest") != 1 {
		t.Errorf("the proxy saw %v", seen.m)
	}
	_, err := c.GetBlob(t.Context(), "x", digest(nil), 0, -1)
	wantFault(t, err, fault.Refused)
	if len(seen.m) != 2 {
		t.Errorf("the proxy saw %v", seen.m)
	}
}

func TestProxyOfTheEnvironment(t *testing.T) {
	var seen counter
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) { seen.add(r.URL.Host) })
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	t.Setenv("REQUEST_METHOD", "")
	c := client(t, func(o *Options) { o.Endpoints = []Endpoint{{URL: "http://r.example"}} })
	if _, err := c.HeadManifest(t.Context(), "x", "latest"); err != nil || seen.get("r.example") != 1 {
		t.Fatalf("%v, the proxy saw %v", err, seen.m)
	}
}

func TestForeignHostsAreJudgedByTheirAddress(t *testing.T) {
	g := newGuardian("r.example", Options{})
	for raw, ok := range map[string]bool{"http://10.0.0.1/": false, "http://localhost/": false, "https://cdn.example/": true, "https://8.8.8.8/": true} {
		u, _ := url.Parse(raw)
		if err := g.checkName(u, g.literal); (err == nil) != ok {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
