package upstream

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/entrepot/entrepot/internal/fault"
)

const (
	maxTokenBody = 1 << 20
	maxToken     = 64 << 10 // ECR's are above 4 KiB
)

// askToken is one request to a token service: distribution's token protocol, by GET with basic credentials
// or none, or by POST for an identity token (OAuth 2, grant refresh_token). n is the size of the answer.
func (c *Client) askToken(x *exchange, realm *url.URL, k tokenKey, now time.Time) (tok *token, n int64, err error) {
	if err := c.sign.Acquire(x.ctx, 1); err != nil {
		return nil, 0, c.wireError(x.span.caller, x.op, context.Cause(x.ctx), err)
	}
	defer c.sign.Release(1)
	auth := basic(k.id)
	if k.id.IdentityToken != "" {
		auth = ""
		form := oauthForm(k).Encode()
		x.body = func() io.Reader { return strings.NewReader(form) }
		x.header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		realm = withQuery(realm, k)
	}
	x.header.Set("Accept", "application/json")
	resp, last, err := c.follow(x, realm, auth)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		f := c.statusError(x.op, resp, sameAuthority(realm, last), k.id.Username != "" || k.id.IdentityToken != "")
		if f.Kind == fault.NotFound || f.Kind == fault.Unsupported || f.Kind == fault.Damaged {
			f.Kind = fault.Denied // what isn't there is the token, not what the client asked for
		}
		return nil, 0, f
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody+1))
	if err != nil {
		return nil, int64(len(raw)), c.wireError(x.span.caller, x.op, context.Cause(x.ctx), err)
	}
	tok, why := readToken(raw, now)
	if tok == nil {
		return nil, int64(len(raw)), c.fail(fault.Unavailable, x.op, "%s", why)
	}
	return tok, int64(len(raw)), nil
}

func withQuery(realm *url.URL, k tokenKey) *url.URL {
	u := *realm
	q := u.Query()
	if k.service != "" {
		q.Set("service", k.service)
	}
	q.Del("scope")
	for _, s := range strings.Fields(k.scope) {
		q.Add("scope", s)
	}
	if k.id.Username != "" {
		q.Set("account", k.id.Username)
	}
	u.RawQuery = q.Encode()
	return &u
}

func oauthForm(k tokenKey) url.Values {
	return url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {k.id.IdentityToken},
		"client_id":     {"entrepot"},
		"service":       {k.service},
		"scope":         {k.scope},
	}
}

// readToken reads a token answer. Its clock is ours: issued_at is not believed.
func readToken(raw []byte, now time.Time) (*token, string) {
	if len(raw) > maxTokenBody {
		return nil, "the answer is too long"
	}
	var a struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return nil, "the answer is no JSON" // its text may hold a token
	}
	if a.Token == "" {
		a.Token = a.AccessToken
	}
	if a.Token == "" || len(a.Token) > maxToken || strings.ContainsFunc(a.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, "the answer holds no usable token"
	}
	t := &token{value: a.Token, issued: now, life: defaultTokenTTL}
	if a.ExpiresIn > 0 {
		t.life = time.Duration(min(a.ExpiresIn, maxTokenTTL.Seconds()) * float64(time.Second))
	}
	return t, ""
}
