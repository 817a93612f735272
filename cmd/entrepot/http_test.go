package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
)

// An ask is one request of a script.
type ask struct {
	method, url, unix, ca string
	header                http.Header
	status                int
	until                 string
}

// cmdHTTP is `http [FLAGS] URL`. It prints the status, the headers in order and the body;
// `! http` wants no answer at all.
//
//	-X METHOD      default GET
//	-H 'KEY: VALUE'
//	-pad N         a header of N bytes
//	-status N      the status that is expected, default 200
//	-until REGEXP  asks again until the output matches, for at most 10 seconds
//	-unix PATH     over a Unix socket
//	-ca FILE       trusts this certificate
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	a, err := parseAsk(args)
	ts.Check(err)
	if a.unix != "" {
		a.unix = ts.MkAbs(a.unix)
	}
	if a.ca != "" {
		a.ca = ts.ReadFile(a.ca)
	}
	client, err := a.client()
	ts.Check(err)
	defer client.CloseIdleConnections()
	var status int
	var text string
	err = atMost(10*time.Second, func(ctx context.Context) error {
		for {
			status, text, err = a.do(ctx, client)
			if a.until == "" {
				return err
			}
			if ok, bad := regexp.MatchString("(?m)"+a.until, text); ok || bad != nil {
				return bad
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("no %s; at last: %w\n%s", a.until, err, text)
			}
		}
	})
	if neg {
		if err == nil {
			ts.Fatalf("an answer, where none was expected:\n%s", text)
		}
		return
	}
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), text)
	if status != a.status {
		ts.Fatalf("status %d, want %d", status, a.status)
	}
}

func parseAsk(args []string) (ask, error) {
	a := ask{header: http.Header{}}
	fs := flag.NewFlagSet("http", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&a.method, "X", "GET", "")
	fs.IntVar(&a.status, "status", 200, "")
	fs.StringVar(&a.until, "until", "", "")
	fs.StringVar(&a.unix, "unix", "", "")
	fs.StringVar(&a.ca, "ca", "", "")
	pad := fs.Int("pad", 0, "")
	fs.Func("H", "", func(s string) error {
		k, v, ok := strings.Cut(s, ": ")
		if !ok {
			return errors.New("a header is 'Key: value'")
		}
		a.header.Add(k, v)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return a, err
	}
	if fs.NArg() != 1 {
		return a, errors.New("usage: http [FLAGS] URL")
	}
	if *pad > 0 {
		a.header.Set("X-Pad", strings.Repeat("x", *pad))
	}
	a.url = fs.Arg(0)
	return a, nil
}

func (a ask) client() (*http.Client, error) {
	tr := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: true}
	if a.unix != "" {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", a.unix)
		}
	}
	if a.ca != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(a.ca)) {
			return nil, errors.New("-ca: no certificate")
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: tr, CheckRedirect: stay}, nil
}

// do asks once, over a connection of its own.
func (a ask) do(ctx context.Context, c *http.Client) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, a.method, a.url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header = a.header
	req.Host = a.header.Get("Host")
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, show(resp, body), err
}

// show prints an answer; what differs each time is replaced.
func show(resp *http.Response, body []byte) string {
	id := resp.Header.Get("X-Request-Id")
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", resp.Proto, resp.Status)
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		fmt.Fprintf(&b, "(certificate of %s)\n", resp.TLS.PeerCertificates[0].Subject.CommonName)
	}
	var lines []string
	for k, values := range resp.Header {
		for _, v := range values {
			switch k {
			case "Date":
				v = "DATE"
			case "X-Request-Id":
				v = "ID"
			}
			lines = append(lines, k+": "+v)
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(&b, l)
	}
	fmt.Fprintln(&b)
	switch {
	case len(body) > 0 && !utf8.Valid(body):
		fmt.Fprintf(&b, "(%d bytes, sha256:%x)\n", len(body), sha256.Sum256(body))
	case id != "":
		b.WriteString(strings.ReplaceAll(string(body), id, "ID") + "\n")
	default:
		b.Write(body)
	}
	return b.String()
}
