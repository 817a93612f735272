package registrytest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Auth is how clients sign in.
type Auth string

const (
	AuthNone   Auth = ""
	AuthBasic  Auth = "basic"  // User and Password with each request
	AuthBearer Auth = "bearer" // a token from /token, for which User and Password are asked unless User is ""
)

// service is what the challenge calls the registry.
const service = "registrytest"

// defaultTokenLife is Docker Hub's.
const defaultTokenLife = 5 * time.Minute

// grant is what a token allows, as signed text within it.
type grant struct {
	Until  int64    `json:"until"` // Unix time in nanoseconds
	Scopes []string `json:"scopes"`
	Issue  int64    `json:"issue"` // generation: see [Server.RevokeTokens]
}

// refuse returns the 401 for a request that isn't signed in; false when it is.
func (s *Server) refuse(r *http.Request, t target) (reply, bool) {
	problem := ""
	switch {
	case t.kind == KindToken || s.options.Auth == AuthNone:
		return reply{}, false
	case s.options.Auth == AuthBasic:
		if s.basicOK(r) {
			return reply{}, false
		}
	default:
		if problem = s.tokenProblem(r, t); problem == "" {
			return reply{}, false
		}
	}
	rep := ociError(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	rep.header.Set("WWW-Authenticate", s.challenge(r, t, problem))
	return rep, true
}

func (s *Server) basicOK(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && user == s.options.User && password == s.options.Password
}

// challenge is the WWW-Authenticate of a 401 (RFC 6750 and Docker's "Token
// Authentication Specification"); "" where nobody needs to sign in.
func (s *Server) challenge(r *http.Request, t target, problem string) string {
	switch s.options.Auth {
	case AuthNone:
		return ""
	case AuthBasic:
		return `Basic realm="` + service + `"`
	}
	c := fmt.Sprintf(`Bearer realm="%s://%s/token",service=%q`, s.scheme(), r.Host, service)
	if t.repo != "" {
		c += fmt.Sprintf(",scope=%q", pullScope(t.repo))
	}
	if problem != "" && problem != "no token" {
		c += fmt.Sprintf(",error=%q", problem)
	}
	return c
}

func pullScope(repo string) string { return "repository:" + repo + ":pull" }

// tokenProblem is "" when the request carries a token that allows it.
func (s *Server) tokenProblem(r *http.Request, t target) string {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "no token"
	}
	body, sum, _ := strings.Cut(text, ".")
	var g grant
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || !hmac.Equal([]byte(sum), []byte(s.tokenSum(body))) || json.Unmarshal(raw, &g) != nil {
		return "invalid_token"
	}
	if g.Issue != s.issue.Load() || time.Now().UnixNano() > g.Until {
		return "invalid_token"
	}
	if t.repo != "" && !slices.ContainsFunc(g.Scopes, func(scope string) bool { return allowsPull(scope, t.repo) }) {
		return "insufficient_scope"
	}
	return ""
}

// allowsPull reads a scope of the form repository:<name>:<action>,<action>.
func allowsPull(scope, repo string) bool {
	actions, ok := strings.CutPrefix(scope, "repository:"+repo+":")
	return ok && (slices.Contains(strings.Split(actions, ","), "pull") || actions == "*")
}

func (s *Server) tokenSum(body string) string {
	mac := hmac.New(sha256.New, s.key[:])
	mac.Write([]byte("token\n" + body))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// RevokeTokens makes all tokens issued so far invalid, however long they had.
func (s *Server) RevokeTokens() { s.issue.Add(1) }

// answerToken issues a token: by GET with Basic credentials, or by POST with a
// form, as OAuth 2 has it (RFC 6749 section 4.3).
func (s *Server) answerToken(r *http.Request) reply {
	if s.options.Auth != AuthBearer {
		return reply{status: http.StatusNotFound, header: textHeader(), body: bytesSection([]byte("404 page not found\n"))}
	}
	query, allowed := r.URL.Query(), s.options.User == "" || s.basicOK(r)
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(nil, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			return ociError(http.StatusBadRequest, "UNSUPPORTED", err.Error())
		}
		query = r.PostForm
		allowed = allowed || (query.Get("username") == s.options.User && query.Get("password") == s.options.Password)
	}
	if !allowed {
		rep := ociError(http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
		rep.header.Set("WWW-Authenticate", `Basic realm="`+service+`"`)
		return rep
	}
	life := s.options.TokenLife
	if life <= 0 {
		life = defaultTokenLife
	}
	token := s.token(strings.Fields(strings.Join(query["scope"], " ")), life)
	return jsonReply(mustJSON(map[string]any{
		"token": token, "access_token": token,
		"expires_in": int(math.Ceil(life.Seconds())),
		"issued_at":  time.Now().UTC().Format(time.RFC3339),
	}))
}

func (s *Server) token(scopes []string, life time.Duration) string {
	body := base64.RawURLEncoding.EncodeToString(mustJSON(grant{
		Until: time.Now().Add(life).UnixNano(), Scopes: scopes, Issue: s.issue.Load(),
	}))
	return body + "." + s.tokenSum(body)
}
