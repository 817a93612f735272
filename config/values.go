package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes. In the file: 4096, 64KiB, 8MiB, 200GiB, 2TiB.
type Size int64

// The units of Size.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

var units = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

var errSize = errors.New("is not a size: write a whole number of bytes, or of KiB, MiB, GiB or TiB, such as 8MiB")

// UnmarshalText reads a size; it is never negative.
func (s *Size) UnmarshalText(text []byte) error {
	digits, unit := string(text), Size(1)
	for _, u := range units {
		if d, ok := strings.CutSuffix(digits, u.name); ok {
			digits, unit = d, u.size
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return errSize
	}
	if n > uint64(math.MaxInt64/int64(unit)) {
		return errors.New("is too large for a size")
	}
	*s = Size(n) * unit
	return nil
}

// String returns s in the largest unit that expresses it exactly.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText returns what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Quota is the size of the cache in bytes; 0 is auto.
type Quota int64

// Of returns the bytes that may be kept on a file system of total bytes.
func (q Quota) Of(total int64) int64 {
	if q != 0 {
		return int64(q)
	}
	return min(total/5, int64(100*GiB))
}

// UnmarshalText reads auto or a size of at least 1MiB.
func (q *Quota) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*q = 0
		return nil
	}
	var s Size
	switch err := s.UnmarshalText(text); {
	case errors.Is(err, errSize):
		return errors.New("is not a size: write auto, or a whole number of MiB, GiB or TiB, such as 200GiB")
	case err != nil:
		return err
	case s < MiB:
		return errors.New("is too small: write auto, or at least 1MiB")
	}
	*q = Quota(s)
	return nil
}

// String returns auto or the size.
func (q Quota) String() string {
	if q == 0 {
		return "auto"
	}
	return Size(q).String()
}

// MarshalText returns what UnmarshalText reads.
func (q Quota) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// Share is a part of a file system: Percent of it or, where that is 0, Bytes.
type Share struct {
	Percent int
	Bytes   Size
}

// Of returns the share of total bytes.
func (s Share) Of(total int64) int64 {
	if s.Percent == 0 {
		return int64(s.Bytes)
	}
	return total/100*int64(s.Percent) + total%100*int64(s.Percent)/100
}

// UnmarshalText reads a whole percentage below 100 or a size.
func (s *Share) UnmarshalText(text []byte) error {
	digits, ok := strings.CutSuffix(string(text), "%")
	if !ok {
		var n Size
		if err := n.UnmarshalText(text); err != nil {
			return errors.New("is neither a percentage nor a size: write one such as 20% or 10GiB")
		}
		*s = Share{Bytes: n}
		return nil
	}
	n, err := strconv.ParseUint(digits, 10, 8)
	if err != nil || n > 99 {
		return errors.New("is not a percentage: write a whole one from 0% to 99%")
	}
	*s = Share{Percent: int(n)}
	return nil
}

// String returns the percentage or the size.
func (s Share) String() string {
	if s.Percent != 0 {
		return strconv.Itoa(s.Percent) + "%"
	}
	return s.Bytes.String()
}

// MarshalText returns what UnmarshalText reads.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Duration is a length of time, never negative. In the file: Go's form, such
// as 500ms, 90s, 1h30m or 168h.
type Duration time.Duration

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("is not a duration: write a number and its unit (ms, s, m or h), such as 90s or 168h")
	}
	if v < 0 {
		return errors.New("is negative: a duration is 0s or more")
	}
	*d = Duration(v)
	return nil
}

// String returns d as Go prints it, without units that are zero at its end.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText returns what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Path is the absolute path of a file or folder, or "".
type Path string

// UnmarshalText reads a path; what is relative is refused, for a daemon's
// current folder is anyone's guess.
func (p *Path) UnmarshalText(text []byte) error {
	if len(text) > 0 && !filepath.IsAbs(string(text)) {
		return errors.New("is not an absolute path: write it from / on")
	}
	*p = Path(text)
	return nil
}

// Address is where to listen: host:port, or unix: and an absolute path; "" is nowhere.
type Address string

// UnmarshalText reads an address. The host is an IP address, localhost, or
// nothing for all addresses of the machine; port 0 is any free port.
func (a *Address) UnmarshalText(text []byte) error {
	s := string(text)
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if err := checkSocket(path); err != nil {
			return err
		}
		*a = Address(s)
		return nil
	}
	if s != "" {
		host, port, ok := cutPort(s)
		if _, err := netip.ParseAddr(host); !ok || port == "" || host != "" && host != "localhost" && err != nil {
			return errors.New("is not an address to listen on: write an IP address and a port, such as 127.0.0.1:5000 or [::1]:5000, or unix:/path")
		}
	}
	*a = Address(s)
	return nil
}

// Split returns the network and the address as net.Listen takes them.
func (a Address) Split() (network, address string) {
	if path, ok := strings.CutPrefix(string(a), "unix:"); ok {
		return "unix", path
	}
	return "tcp", string(a)
}

// Local reports whether only this machine can reach a.
func (a Address) Local() bool {
	network, address := a.Split()
	if network == "unix" || address == "" {
		return true
	}
	host, _, _ := cutPort(address)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// cutPort splits host:port; ok is false where s is not well formed. The port is
// "" where there is none. A host in brackets is returned without them.
func cutPort(s string) (host, port string, ok bool) {
	host = s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return "", "", false
		}
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		return inner, port, ok && err == nil && ip.Is6()
	}
	return host, port, !strings.ContainsAny(host, ":[]")
}

// maxSocketPath is what fits into sockaddr_un.sun_path on Linux, with its final zero.
const maxSocketPath = 107

func checkSocket(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return errors.New("is not an absolute path: write it from / on, such as unix:/run/entrepot/registry.sock")
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("is too long for a socket: at most %d bytes", maxSocketPath)
	}
	return nil
}

// parsePrefix reads a network in CIDR form.
func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch a, aerr := netip.ParseAddr(text); {
	case err != nil && aerr == nil && a.Zone() == "":
		return p, fmt.Errorf("is one address: as a network write it with /%d behind it", a.BitLen())
	case err != nil:
		return p, errors.New("is not a network: write it in CIDR form, such as 10.0.0.0/8 or fd00::/8")
	case p.Addr().Is4In6():
		return p, errors.New("is an IPv4 network in IPv6 form: write it as IPv4, such as 10.0.0.0/8")
	case p != p.Masked():
		return p, errors.New("has bits set behind its length: write the first address of the network, such as 10.0.0.0/8")
	}
	return p, nil
}
