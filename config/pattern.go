package config

import (
	"errors"
	"path"
	"strings"
)

// Pattern is a host name, with a port where there is one, in lower case. A *
// stands for one label or a part of one, never for a dot, and not in the last
// label: "*.dkr.ecr.*.amazonaws.com", "*.pkg.dev", "registry.example.com:5000".
type Pattern string

// maxPattern is the longest host name that DNS allows (RFC 1035), a port left aside.
const maxPattern = 253

// UnmarshalText reads a host name or pattern and turns it into lower case.
func (p *Pattern) UnmarshalText(text []byte) error {
	s := strings.ToLower(string(text))
	if strings.Contains(s, "://") {
		return errors.New("is a URL: write the host's name alone")
	}
	host, _, ok := cutPort(s)
	if !ok || len(host) > maxPattern || !strings.HasPrefix(s, "[") && !isHost(host, "*") {
		return errors.New(`is not a host name: write one such as registry.example.com, registry.example.com:5000 or "*.example.com"`)
	}
	if strings.Contains(host[strings.LastIndexByte(host, '.')+1:], "*") {
		return errors.New(`is too wide: * may not stand in the last part of a name, write it such as "*.example.com"`)
	}
	*p = Pattern(s)
	return nil
}

// Wild reports whether p holds a *.
func (p Pattern) Wild() bool { return strings.Contains(string(p), "*") }

// Match reports whether host, in lower case and with its port if it has one, is
// a name that p stands for.
func (p Pattern) Match(host string) bool {
	if !p.Wild() {
		return string(p) == host && host != ""
	}
	name, port, ok := cutPort(host)
	pname, pport, _ := cutPort(string(p))
	if !ok || port != pport || !isHost(name, "") {
		return false
	}
	labels, want := strings.Split(name, "."), strings.Split(pname, ".")
	if len(labels) != len(want) {
		return false
	}
	for i := range want {
		if ok, _ := path.Match(want[i], labels[i]); !ok {
			return false
		}
	}
	return true
}

// isHost reports whether s is made of labels: letters in lower case, digits,
// hyphens, underscores (some registries have them) and what else is given.
func isHost(s, extra string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_"+extra) != "" {
			return false
		}
	}
	return true
}

// Glob is a pattern for repositories or tags: * stands for any characters
// within one element of the path, ** for any number of elements. "team/**" is
// everything below team, "**/base" is base at any depth, "**" is everything.
type Glob string

const maxGlob = 255 // the longest name that a registry has to take

var errGlob = errors.New(`is not a pattern: write names with *, or ** for any number of path elements, such as "team/**" or "v1.*"`)

// UnmarshalText reads a pattern.
func (g *Glob) UnmarshalText(text []byte) error {
	s := string(text)
	if len(s) > maxGlob {
		return errGlob
	}
	for element := range strings.SplitSeq(s, "/") {
		valid := isGlobElement(element)
		if !valid || strings.Contains(element, "**") && element != "**" {
			return errGlob
		}
	}
	*g = Glob(s)
	return nil
}

func isGlobElement(s string) bool {
	const chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-*"
	return s != "" && strings.Trim(s, chars) == ""
}

// Match reports whether name is one that g stands for.
func (g Glob) Match(name string) bool {
	if g == "" || name == "" {
		return false
	}
	want, have := strings.Split(string(g), "/"), strings.Split(name, "/")
	if want[len(want)-1] == "**" { // below, not the folder itself
		want = append(want, "*")
	}
	return matchElements(want, have)
}

// matchElements goes forward greedily; where that fails it returns to the last
// ** only, which is enough, since an earlier match leaves more to the rest.
func matchElements(want, have []string) bool {
	w, h, star, mark := 0, 0, -1, 0
	for h < len(have) {
		switch {
		case w < len(want) && want[w] == "**":
			star, mark = w, h
			w++
		case w < len(want) && matchElement(want[w], have[h]):
			w++
			h++
		case star >= 0:
			mark++
			w, h = star+1, mark
		default:
			return false
		}
	}
	for w < len(want) && want[w] == "**" {
		w++
	}
	return w == len(want)
}

func matchElement(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil
}
