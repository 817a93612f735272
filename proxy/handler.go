package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/entrepot/entrepot/cache"
	"github.com/entrepot/entrepot/metrics"
)

// Options of a Handler that hold as long as it does.
type Options struct {
	Store    *cache.Store
	Metrics  *metrics.Metrics
	Log      *slog.Logger
	Instance string        // our name in Via: a request that has passed us before is refused
	Patience time.Duration // how long an answer about a tag, a manifest or a right may take
	Stalled  time.Duration // how long a client may take no byte, where the kernel does not see to it
}

// Settings are what a reload may change.
type Settings struct {
	Upstreams Upstreams
	Hostname  func(host string) bool // names besides localhost and addresses under which loopback may be asked
	Allow     []netip.Prefix         // clients; empty: everyone who reaches us
	Access    bool                   // log every request
}

// A Handler serves the registry API. Its methods may be called by many
// goroutines at once.
type Handler struct {
	o        Options
	ctx      context.Context // of what several clients wait for: the daemon's
	settings atomic.Pointer[Settings]
	flights  flights
}

// New returns a handler. What it asks upstreams on behalf of several clients ends with ctx.
func New(ctx context.Context, o Options, s Settings) *Handler {
	h := &Handler{o: o, ctx: ctx}
	h.flights = flights{ctx: ctx, patience: o.Patience}
	h.settings.Store(&s)
	return h
}

// Reconfigure puts new settings in force, for the requests that come from now on.
func (h *Handler) Reconfigure(s Settings) { h.settings.Store(&s) }

// A call is one request with what has been found out about it.
type call struct {
	*http.Request
	route    Route
	repo     cache.Repo
	upstream Upstream
	policy   Policy
	reg      Registry
}

// ServeHTTP answers one request. When a body can't be brought to a good end the connection is
// cut, so that nobody takes it for whole.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := h.settings.Load()
	out := newResponse(w, r, h.o.Stalled)
	h.o.Metrics.InFlight(1)
	c := &call{Request: r}
	err := h.serve(out, c, s)
	var api *apiError
	if err != nil {
		api = answerFor(c.route, err)
		switch {
		case out.status != 0: // too late for an answer
		case r.Context().Err() != nil:
			out.status = statusGone
		default:
			api.write(out, r, c.route.Upstream, out.id)
		}
	}
	h.o.Metrics.InFlight(-1)
	h.account(out, c, s, api)
	if err != nil && out.cut {
		panic(http.ErrAbortHandler) // net/http's way to close a connection; it logs nothing
	}
}

// serve finds out what is asked for and answers it.
func (h *Handler) serve(w *response, c *call, s *Settings) error {
	w.Header().Set("X-Request-Id", w.id)
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := h.admit(c.Request, s); err != nil {
		return err
	}
	if err := c.find(s); err != nil {
		return err
	}
	if c.route.Namespace != "" {
		w.Header().Set("OCI-Namespace", c.route.Namespace)
	}
	switch c.route.Kind {
	case Manifest:
		return h.manifest(w, c)
	case Blob:
		return h.blob(w, c)
	case Tags:
		return h.tags(w, c)
	case Referrers:
		return h.referrers(w, c)
	default:
		return h.json(w, c, []byte("{}"), "application/json")
	}
}

// isOwn reports whether host, named by a client as an upstream, is the address at which it has reached us.
func isOwn(r *http.Request, host string, s *Settings) bool {
	if strings.EqualFold(host, r.Host) {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	name, port, err := net.SplitHostPort(host)
	if !ok || err != nil || port != strconv.Itoa(local.Port) {
		return false
	}
	if ip := net.ParseIP(name); ip != nil {
		return ip.Equal(local.IP) || ip.IsLoopback() && local.IP.IsLoopback()
	}
	return local.IP.IsLoopback() && strings.EqualFold(name, "localhost") || s.Hostname(strings.ToLower(name))
}

// find routes the call and readies the upstream's client.
func (c *call) find(s *Settings) (err error) {
	ns := c.Header.Get("OCI-Namespace")
	if strings.Contains(c.URL.RawQuery, "ns=") {
		ns = c.URL.Query().Get("ns")
	}
	c.route, err = Parse(Request{Method: c.Method, Path: c.URL.Path, RawPath: c.URL.RawPath, Namespace: ns}, Names{
		Lookup: func(name string) (string, bool) {
			u, ok := s.Upstreams.Lookup(name)
			if !ok {
				return "", false
			}
			return u.Host(), true
		},
		Own:     func(host string) bool { return isOwn(c.Request, host, s) },
		Default: s.Upstreams.Default(),
	})
	if err != nil || c.route.Kind == Ping {
		return err
	}
	u, ok := s.Upstreams.Lookup(c.route.Upstream)
	if !ok {
		return notAllowed(c.route.Upstream)
	}
	c.upstream, c.policy = u, u.Policy(c.route.Name)
	c.repo = cache.Repo{Upstream: c.route.Upstream, Name: c.route.Name}
	if !c.policy.Allow {
		return answer(http.StatusForbidden, codeDenied, "the configuration's rules for upstream "+c.route.Upstream+" do not allow this repository")
	}
	c.reg, err = u.Registry()
	return err
}

// admit turns away who may not ask at all.
func (h *Handler) admit(r *http.Request, s *Settings) error {
	if len(s.Allow) > 0 && !allowed(r.RemoteAddr, s.Allow) {
		return answer(http.StatusForbidden, codeDenied, "this client's address is not among clients.allow in the configuration")
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && local.IP.IsLoopback() && !localName(r.Host, s) {
		return answer(http.StatusMisdirectedRequest, codeDenied, "on loopback, the Host must be localhost, an IP address or one of hostnames in the configuration")
	}
	for _, via := range r.Header.Values("Via") {
		if strings.Contains(via, h.o.Instance) {
			return answer(http.StatusLoopDetected, codeUnsupported, "this request has passed through this daemon before: an upstream or a mirror of it leads back here")
		}
	}
	return nil
}

// allowed reports whether a client's address is in one of the networks. A
// client without an address is on a Unix socket, which has permissions of its own.
func allowed(remote string, nets []netip.Prefix) bool {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return true
	}
	for _, p := range nets {
		if p.Contains(ap.Addr().Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// localName keeps web pages that have rebound their name to loopback away from it.
func localName(host string, s *Settings) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") || s.Hostname(name) {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil
}

// account writes the access line and counts the request.
func (h *Handler) account(w *response, c *call, s *Settings, api *apiError) {
	took := time.Since(w.began)
	label := ""
	if c.upstream != nil {
		label = c.upstream.Label()
	}
	result := w.Header().Get("X-Cache")
	if w.sent == 0 {
		w.firstByte = 0
	}
	h.o.Metrics.Request(label, c.route.Kind.String(), result, w.status, w.sent, w.firstByte, took)
	failed := api != nil && (w.status >= http.StatusInternalServerError || w.cut && !w.lost && c.Context().Err() == nil)
	if !s.Access && !failed {
		return
	}
	attrs := []slog.Attr{
		slog.String("id", w.id),
		slog.String("client", c.RemoteAddr),
		slog.String("method", c.Method),
		slog.String("kind", c.route.Kind.String()),
		slog.String("upstream", c.route.Upstream),
		slog.String("repository", c.route.Name),
		slog.String("reference", c.route.reference()),
		slog.Int("status", w.status),
		slog.Int64("bytes", w.sent),
		slog.String("cache", result),
		slog.Duration("took", took.Round(time.Microsecond)),
		slog.String("agent", printable(c.UserAgent())),
	}
	if c.route.Kind == Other {
		attrs = append(attrs, slog.String("path", printable(c.URL.Path)))
	}
	if rng := c.Header.Get("Range"); rng != "" {
		attrs = append(attrs, slog.String("range", printable(rng)))
	}
	level := slog.LevelInfo
	if api != nil {
		attrs = append(attrs, slog.String("err", api.Error()), slog.Bool("cut", w.cut))
		if failed {
			level = slog.LevelWarn
		}
	}
	h.o.Log.LogAttrs(context.Background(), level, "request", attrs...)
}

func (r Route) reference() string {
	if r.Tag != "" || r.Digest.Hex == "" {
		return r.Tag
	}
	return r.Digest.String()
}
