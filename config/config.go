package config

import "net/netip"

// Config is the whole file. Every key may be left out.
type Config struct {
	// Listen says where the registry API is served: host:port with an IP
	// address or localhost, or unix:/path. Sockets handed over by systemd come
	// first; [] means these only. Default: 127.0.0.1:5000.
	Listen []Address `yaml:"listen" restart:"yes"`
	// TLS turns the registry API into HTTPS. Default: plain HTTP.
	TLS TLS `yaml:"tls" restart:"yes"`
	// Hostnames are the names under which clients address a loopback listener,
	// besides localhost and IP addresses; any other Host gets 421, which stops
	// DNS rebinding. May hold * (see Pattern). Default: none.
	Hostnames []Pattern `yaml:"hostnames"`
	// Clients says who may ask.
	Clients Clients `yaml:"clients"`
	// Metrics is the listener for monitoring.
	Metrics Metrics `yaml:"metrics"`
	// Admin is the operators' API, which the other commands talk to.
	Admin Admin `yaml:"admin"`
	// Log says what is written to standard error.
	Log Log `yaml:"log"`
	// Server bounds how long connections of clients live.
	Server Server `yaml:"server"`
	// Cache says where content is kept and how much of it.
	Cache Cache `yaml:"cache"`
	// Fetch says how content is fetched from upstreams.
	Fetch Fetch `yaml:"fetch"`
	// Builtin adds the upstreams that are known to this version (Known). With
	// false only those in Upstreams may be asked. Default: true.
	Builtin bool `yaml:"builtin"`
	// DefaultUpstream is asked when a client names none, as Docker's
	// registry-mirrors do. "" means no such requests are served.
	// Default: docker.io if that is an upstream, else "".
	DefaultUpstream string `yaml:"defaultUpstream"`
	// Upstreams are the registries that may be asked. One that has the name of
	// a built-in upstream replaces those of its keys that it sets. In a
	// Config the built-in ones stand behind the configured ones. Default: none.
	Upstreams []Upstream `yaml:"upstreams"`
}

// TLS is the certificate that clients see. Both files or none; they are read
// again when they change.
type TLS struct {
	// CertFile holds the certificate and its chain in PEM. Default: none.
	CertFile Path `yaml:"certFile"`
	// KeyFile holds the private key in PEM. Default: none.
	KeyFile Path `yaml:"keyFile"`
}

// Enabled reports whether clients are served over HTTPS.
func (t TLS) Enabled() bool { return t.CertFile != "" }

// Clients says who may ask.
type Clients struct {
	// Allow lists the networks (CIDR) whose clients are served. Empty means
	// everyone who reaches a listener, and is refused when a listener is open
	// beyond loopback while an upstream is asked with credentials. Default: empty.
	Allow []netip.Prefix `yaml:"allow"`
}

// Metrics is the listener for monitoring.
type Metrics struct {
	// Listen is where /metrics, /healthz and /readyz are served, and nothing
	// else; "" turns it off. Default: 127.0.0.1:5001.
	Listen Address `yaml:"listen" restart:"yes"`
}

// Admin is the operators' API.
type Admin struct {
	// Socket is the path of its Unix socket, mode 0660. Default: "", which
	// Resolve turns into /run/entrepot/admin.sock for root, else into
	// entrepot/admin.sock in the user's runtime folder ($XDG_RUNTIME_DIR).
	Socket Path `yaml:"socket" restart:"yes"`
}

// Log says what is written to standard error.
type Log struct {
	// Level is the least important level that is written. Default: info.
	Level string `yaml:"level" oneof:"debug info warn error"`
	// Format is text (logfmt) or json. Default: text.
	Format string `yaml:"format" oneof:"text json" restart:"yes"`
	// Access writes a line for every request. Default: true.
	Access bool `yaml:"access"`
}

// Server bounds how long connections of clients live.
type Server struct {
	// IdleTimeout closes a connection that has had no request for so long. Default: 90s.
	IdleTimeout Duration `yaml:"idleTimeout" range:"1s..24h" restart:"yes"`
	// StalledClient closes a connection whose client has taken no byte of its
	// answer for so long. Default: 60s.
	StalledClient Duration `yaml:"stalledClient" range:"100ms..24h" restart:"yes"`
	// Drain is how long open downloads may go on after SIGTERM. Default: 30s.
	Drain Duration `yaml:"drain" range:"0s..24h"`
}

// Cache says where content is kept and how much of it.
type Cache struct {
	// Dir is the folder of the store; one daemon at a time. Default: "", which
	// Resolve turns into $CACHE_DIRECTORY, else /var/lib/entrepot for root,
	// else entrepot in the user's cache folder.
	Dir Path `yaml:"dir" restart:"yes"`
	// Size is the most that is kept; auto is 20 % of the file system, at most
	// 100GiB. Default: auto.
	Size Quota `yaml:"size" restart:"yes"`
	// MinFree is what is always left free, a share of the file system (20%) or
	// a size (10GiB). The kubelet starts to delete images at 85 % used.
	// Default: 20%.
	MinFree Share `yaml:"minFree" restart:"yes"`
	// MaxBlobSize is the largest blob that is kept; larger ones are passed
	// through. Default: 64GiB.
	MaxBlobSize Size `yaml:"maxBlobSize" range:"1MiB..16TiB" restart:"yes"`
}

// What Fetch.Fill may be.
const (
	FillComplete = "complete"
	FillOnDemand = "onDemand"
)

// Fetch says how content is fetched from upstreams.
type Fetch struct {
	// Fill is complete: a blob that somebody has begun to read is fetched to
	// its end; or onDemand: only the ranges that are read. Default: complete.
	Fill string `yaml:"fill" oneof:"complete onDemand" restart:"yes"`
	// Parallel is the number of requests at once for one large blob. Default: 4.
	Parallel int `yaml:"parallel" range:"1..64" restart:"yes"`
	// PieceSize is the smallest range that is asked for; blobs up to it are
	// fetched by one request. Default: 8MiB.
	PieceSize Size `yaml:"pieceSize" range:"64KiB..1GiB" restart:"yes"`
	// Background is the number of fills that go on at once without a reader.
	// Default: 4.
	Background int `yaml:"background" range:"0..1024" restart:"yes"`
	// Timeouts bound every wait for an upstream.
	Timeouts Timeouts `yaml:"timeouts"`
}

// Timeouts bound every wait for an upstream.
type Timeouts struct {
	// Connect bounds one connection: name, TCP and TLS. Default: 3s.
	Connect Duration `yaml:"connect" range:"1ms..10m"`
	// Headers bounds the wait for the headers of an answer. Default: 5s.
	Headers Duration `yaml:"headers" range:"1ms..10m"`
	// Stall is how long a body may bring no byte before it counts as broken. Default: 15s.
	Stall Duration `yaml:"stall" range:"1ms..10m"`
	// Patience is how long a client is kept waiting in all, retries included,
	// before it hears that an upstream cannot be reached. Default: 10s.
	Patience Duration `yaml:"patience" range:"1ms..10m" restart:"yes"`
}
