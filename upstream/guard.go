package upstream

import (
	"fmt"
	"net/netip"
	"strings"
)

// zone is what kind of network an address belongs to, from harmless to forbidden.
type zone int32

const (
	zonePublic zone = iota
	zonePrivate
	zoneLoopback
	zoneForbidden
)

func (z zone) String() string {
	return [...]string{"public", "private", "loopback", "forbidden"}[z]
}

var (
	private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10")
	// forbidden holds what no registry is ever behind: link-local (and with it most metadata
	// services), "this network", multicast, reserved, and the metadata services of clouds that
	// chose other addresses: AWS over IPv6, Google over IPv6, Alibaba, Azure, Oracle.
	forbidden = prefixes("169.254.0.0/16", "fe80::/10", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "ff00::/8", "::/128",
		"fd00:ec2::/32", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// classify says where a is. An IPv6 address that carries an IPv4 one (mapped, compatible, NAT64,
// 6to4, Teredo) is judged as the worse of the two.
func classify(a netip.Addr) zone {
	a = a.Unmap().WithZone("")
	z := classifyPlain(a)
	if inner, ok := embedded(a); ok {
		z = max(z, classifyPlain(inner))
	}
	return z
}

func classifyPlain(a netip.Addr) zone {
	switch {
	case !a.IsValid() || within(a, forbidden):
		return zoneForbidden
	case a.IsLoopback():
		return zoneLoopback
	case within(a, private):
		return zonePrivate
	}
	return zonePublic
}

func within(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// embedded returns the IPv4 address inside an IPv6 one that a router or a translator may unpack:
// RFC 6052 (NAT64), RFC 8215 (local NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 4291 (compatible).
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() || a.IsLoopback() || a.IsUnspecified() {
		return netip.Addr{}, false
	}
	b := a.As16()
	v4 := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case b[0] == 0x00 && b[1] == 0x64 && b[2] == 0xff && b[3] == 0x9b:
		return v4(12), true
	case b[0] == 0x20 && b[1] == 0x02:
		return v4(2), true
	case b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0:
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case netip.PrefixFrom(netip.IPv6Unspecified(), 96).Contains(a):
		return v4(12), true
	}
	return netip.Addr{}, false
}

// literalZone judges a host before any name is looked up: an address, or a name that stands for
// one. ok is false for a name that only a resolver can tell.
func literalZone(host string) (z zone, ok bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if strings.ContainsFunc(host, func(r rune) bool { return r < '!' || r > '~' }) {
		return zoneForbidden, true // IDNA maps full-width digits to plain ones; real names come in punycode
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return classify(a), true
	}
	switch {
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		return zoneLoopback, true
	case host == "metadata.google.internal" || host == "":
		return zoneForbidden, true
	}
	// Some resolvers and proxies read 2130706433, 0x7f.1 or 0177.0.0.1 as addresses. No
	// top-level domain begins with a digit, so nothing real is lost.
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "" || last[0] >= '0' && last[0] <= '9' {
		return zoneForbidden, true
	}
	return 0, false
}

// addressError says that the rules forbid to connect to an address.
type addressError struct {
	host string
	zone zone
	own  bool
}

func (e *addressError) Error() string {
	switch {
	case e.zone == zoneForbidden:
		return fmt.Sprintf("%s is a link-local, metadata, multicast or reserved address: never connected to", e.host)
	case e.own:
		return fmt.Sprintf("%s is on loopback: an upstream whose name comes from a pattern may not be", e.host)
	case e.zone == zoneLoopback:
		return fmt.Sprintf("%s is on loopback and the upstream is not", e.host)
	}
	return fmt.Sprintf("%s has a private address and the upstream has not: add it to redirects.allow of this upstream if that is intended", e.host)
}

// rule is where connections to one host may lead.
type rule struct {
	host string
	own  bool // the endpoint's own host, not one that it sent us to
	upTo zone // the highest zone allowed: whoever may be on loopback may be private, not the other way round
}

// check returns an *addressError if z is beyond what r allows.
func (r rule) check(z zone) error {
	if z <= r.upTo {
		return nil
	}
	return &addressError{host: r.host, zone: z, own: r.own}
}

// storageOf reports whether host is where the provider of the registry keeps its
// blobs: such names may have private addresses (VPC and private endpoints) under public registries.
func storageOf(registry, host string) bool {
	host = strings.ToLower(host)
	for _, p := range providers {
		if !hasAnySuffix(registry, p.registries) {
			continue
		}
		if p.storage(host) {
			return true
		}
	}
	return false
}

var providers = []struct {
	registries []string
	storage    func(host string) bool
}{
	{[]string{
		".amazonaws.com", ".amazonaws.com.cn", ".on.aws", ".on.amazonwebservices.com.cn", ".amazonaws.eu", ".sc2s.sgov.gov", ".c2s.ic.gov", ".cloud.adc-e.uk", ".csp.hci.ic.gov",
		"public.ecr.aws", "registry.k8s.io", "registry-1.docker.io", "quay.io",
	}, isS3},
	{[]string{".pkg.dev", "gcr.io", ".gcr.io", "registry.k8s.io"}, isGCS},
	{[]string{".azurecr.io", "mcr.microsoft.com"}, func(h string) bool {
		return strings.HasSuffix(h, ".blob.core.windows.net") || strings.HasSuffix(h, ".data.azurecr.io") || strings.HasSuffix(h, ".data.mcr.microsoft.com")
	}},
	{[]string{"registry.k8s.io"}, func(h string) bool { return strings.HasSuffix(h, ".pkg.dev") }}, // it is a signpost to these
}

// partitions are the domains of AWS under which S3 is.
var partitions = []string{".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".sc2s.sgov.gov", ".c2s.ic.gov", ".cloud.adc-e.uk", ".csp.hci.ic.gov"}

func isGCS(host string) bool {
	return host == "storage.googleapis.com" || strings.HasSuffix(host, ".storage.googleapis.com")
}

// hasAnySuffix treats a suffix without a leading dot as the whole name.
func hasAnySuffix(host string, suffixes []string) bool {
	for _, s := range suffixes {
		if host == s || s[0] == '.' && strings.HasSuffix(host, s) {
			return true
		}
	}
	return false
}

// isS3 matches [bucket.]s3[.dualstack][.region].<partition> and the older s3-region form.
func isS3(host string) bool {
	for _, p := range partitions {
		if h, ok := strings.CutSuffix(host, p); ok {
			return isS3Label(strings.Split(h, "."))
		}
	}
	return false
}

func isS3Label(labels []string) bool {
	for tail := 1; tail <= 3 && tail <= len(labels); tail++ {
		if l := labels[len(labels)-tail]; l == "s3" || tail == 1 && strings.HasPrefix(l, "s3-") {
			return true
		}
	}
	return false
}
