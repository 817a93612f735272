package upstream

import "strings"

// challenge is one way to sign in that a WWW-Authenticate header offers (RFC 9110, 11.6.1).
type challenge struct {
	scheme string            // lower case
	params map[string]string // names in lower case; the first of a name counts
}

const maxChallenges = 16

// parseChallenges reads all WWW-Authenticate headers of an answer. It is lenient: what
// it cannot read it skips, and what came before still counts.
func parseChallenges(headers []string) []challenge {
	var out []challenge
	for _, h := range headers {
		p := challengeParser{s: h}
		for len(out) < maxChallenges {
			ch, ok := p.next()
			if !ok {
				break
			}
			out = append(out, ch)
		}
	}
	return out
}

type challengeParser struct{ s string }

// next reads a scheme and the parameters up to the next scheme.
func (p *challengeParser) next() (challenge, bool) {
	p.skip(" \t,")
	scheme := p.token()
	if scheme == "" {
		return challenge{}, false
	}
	ch := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	for {
		p.skip(" \t,")
		rest := p.s
		name := p.token()
		p.skip(" \t")
		if name == "" || !strings.HasPrefix(p.s, "=") {
			// The next scheme, a token68, or rubbish. A scheme is read again by the next call.
			p.s = rest
			return ch, true
		}
		p.s = p.s[1:]
		p.skip(" \t")
		value := p.value()
		name = strings.ToLower(name)
		if _, seen := ch.params[name]; !seen {
			ch.params[name] = value
		}
	}
}

func (p *challengeParser) skip(set string) { p.s = strings.TrimLeft(p.s, set) }

// token reads an RFC 9110 token; "" if there is none here.
func (p *challengeParser) token() string {
	i := 0
	for i < len(p.s) && isTokenByte(p.s[i]) {
		i++
	}
	t := p.s[:i]
	p.s = p.s[i:]
	return t
}

// value reads a quoted string, or anything up to a comma or a blank: realms are seen without quotes.
func (p *challengeParser) value() string {
	if !strings.HasPrefix(p.s, `"`) {
		i := strings.IndexAny(p.s, ", \t")
		if i < 0 {
			i = len(p.s)
		}
		v := p.s[:i]
		p.s = p.s[i:]
		return v
	}
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.s):
			i++
			b.WriteByte(p.s[i])
		default:
			b.WriteByte(c)
		}
	}
	p.s = ""
	return b.String() // not closed: take what there is
}

func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
