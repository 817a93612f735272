package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
)

const redacted = "(redacted)"

// Secret is text that is never printed: with every verb of fmt, in a log, in
// JSON and in YAML it shows a placeholder, or nothing where it is empty.
type Secret struct{ text string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text itself.
func (s Secret) Reveal() string { return s.text }

// Equal reports whether both hold the same text.
func (s Secret) Equal(o Secret) bool { return s == o }

// String returns the placeholder.
func (s Secret) String() string {
	if s.text == "" {
		return ""
	}
	return redacted
}

// Format writes the placeholder, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue returns the placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns the placeholder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML returns the placeholder.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// UnmarshalText takes text as it is.
func (s *Secret) UnmarshalText(text []byte) error {
	s.text = string(text)
	return nil
}

// Proxy is the proxy on the way to an endpoint. As it may hold a password, it
// prints without it. The zero value means what the environment says.
type Proxy struct{ text string }

const direct = "direct"

// Direct reports whether no proxy is to be used, whatever the environment says.
func (p Proxy) Direct() bool { return p.text == direct }

// URL returns the proxy with its password, nil where there is none here.
func (p Proxy) URL() *url.URL {
	if p.text == "" || p.Direct() {
		return nil
	}
	u, err := url.Parse(p.text)
	if err != nil { // UnmarshalText has refused it
		return nil
	}
	return u
}

// Equal reports whether both are the same proxy, with the same password.
func (p Proxy) Equal(o Proxy) bool { return p == o }

// String returns the proxy, its password (or a name without one) replaced.
func (p Proxy) String() string {
	u := p.URL()
	if u == nil {
		return p.text
	}
	if _, ok := u.User.Password(); u.User != nil && !ok {
		u.User = url.User("xxxxx")
	}
	return u.Redacted()
}

// Format writes String, whatever the verb.
func (p Proxy) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// LogValue returns String.
func (p Proxy) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText returns String.
func (p Proxy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads "", direct, or the URL of an HTTP or SOCKS5 proxy.
func (p *Proxy) UnmarshalText(text []byte) error {
	s := string(text)
	if s != "" && s != direct {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
			return errors.New("is not a proxy: write a URL such as http://proxy.example.com:3128 or socks5://127.0.0.1:1080, or direct for none")
		}
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("is more than a proxy: write its URL without path, query and fragment")
		}
	}
	p.text = s
	return nil
}
