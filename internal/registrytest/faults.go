package registrytest

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Fault is something that goes wrong with the requests that match. The zero
// value of each field leaves that part of the answer as it is; several fields
// may be set together.
//
// Requests refused for want of credentials neither meet nor use up faults,
// except those of [KindPing]; so "the first manifest request" is the first one
// that signed in.
type Fault struct {
	Match Match
	Skip  int // matching requests let through first
	Times int // how many are hit after that; 0: all

	// Answer this instead. An error Status with no Body gets the OCI error
	// body; a 2xx Status with no Body keeps the body. A 401 without a
	// WWW-Authenticate in Header carries the registry's own challenge.
	Status int
	Header http.Header // set on the answer, whatever the status, after all else
	Body   string

	// CutAt ends the connection after so many body bytes, all of which reach a
	// client that reads; -1: instead of an answer. Over HTTP/2 the stream is
	// reset. Mind that Go's client asks again by itself when a connection used
	// before is cut without an answer.
	CutAt    int64
	CutShare float64 // the same, as a share of the body: 0.6
	// Reset makes a cut a TCP reset. Bytes sent before it may be lost, as they are in life.
	Reset bool

	CorruptAt int64 // flips a bit of the byte at this offset of the body, if above 0
	Corrupt   bool  // the same, at CorruptAt even if 0

	// StallAt stops sending after so many body bytes; -1: after the headers.
	// It ends with Stall, [Server.Release], [Server.Heal], or the connection.
	StallAt      int64
	StallHeaders bool          // stops before the headers
	Stall        time.Duration // how long; 0: for ever

	Length   int64 // added to Content-Length: above 0 the body ends early, below 0 it is clipped
	NoLength bool  // no Content-Length: chunked over HTTP/1.1

	ContentRange  string // verbatim
	ContentType   string // verbatim
	ContentDigest string // Docker-Content-Digest, verbatim
	Encoding      string // Content-Encoding; the body stays as it is
	IgnoreRange   bool   // 200 with all of it

	Redirect string        // 307 to there
	Garbage  bool          // something that isn't HTTP
	Delay    time.Duration // before anything is answered
	Rate     int64         // bytes a second for this body
}

// faults is what is broken at the moment.
type faults struct {
	mu       sync.Mutex
	armed    []*armedFault // guarded by mu, as is all below
	released chan struct{} // closed when stalled answers go on; replaced then
}

type armedFault struct {
	Fault
	seen, hits int
}

// Break adds faults. Each request meets the first one, in the order in which
// they were added, that matches and isn't used up; the others only see it
// pass, which counts for their Skip.
func (s *Server) Break(f ...Fault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	for _, one := range f {
		s.faults.armed = append(s.faults.armed, &armedFault{Fault: one})
	}
}

// Heal removes all faults and lets stalled answers go on.
func (s *Server) Heal() {
	s.faults.mu.Lock()
	s.faults.armed = nil
	s.faults.mu.Unlock()
	s.Release()
}

// Release lets the answers that are stalled now go on. Answers that have met
// their fault but not come to the stall yet will pass it.
func (s *Server) Release() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	close(s.faults.released)
	s.faults.released = make(chan struct{})
}

// met is the fault that a request has met.
type met struct {
	Fault
	released <-chan struct{} // closed by the first Release after the request met it
}

// pick returns the fault that a request meets; the zero Fault when none.
func (fs *faults) pick(r *Request) met {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var hit *armedFault
	for _, f := range fs.armed {
		if !f.Match.matches(r) {
			continue
		}
		f.seen++
		if hit == nil && f.seen > f.Skip && (f.Times == 0 || f.hits < f.Times) {
			hit = f
		}
	}
	if hit == nil {
		return met{}
	}
	hit.hits++
	return met{hit.Fault, fs.released}
}

// apply changes what is answered; how it is sent is up to [Server.send].
func (f *Fault) apply(rep *reply, t target, challenge string) {
	switch {
	case f.Redirect != "":
		*rep = reply{status: http.StatusTemporaryRedirect, header: http.Header{"Location": {f.Redirect}}}
	case f.Status >= 300 || (f.Status != 0 && f.Body != ""):
		*rep = faultReply(f, t)
		if f.Status == http.StatusUnauthorized && challenge != "" {
			rep.header.Set("WWW-Authenticate", challenge)
		}
	case f.Status != 0:
		rep.status = f.Status
	case f.Body != "":
		rep.body = bytesSection([]byte(f.Body))
	}
	for key, value := range map[string]string{
		"Content-Range": f.ContentRange, "Content-Type": f.ContentType,
		"Docker-Content-Digest": f.ContentDigest, "Content-Encoding": f.Encoding,
	} {
		if value != "" {
			rep.header.Set(key, value)
		}
	}
	for key, values := range f.Header {
		rep.header[http.CanonicalHeaderKey(key)] = values
	}
}

// faultReply is the answer that a fault has in place of the true one.
func faultReply(f *Fault, t target) reply {
	if f.Body != "" {
		return reply{status: f.Status, header: http.Header{}, body: bytesSection([]byte(f.Body))}
	}
	if f.Status < 400 {
		return reply{status: f.Status, header: http.Header{}}
	}
	message := "the test registry answers " + strconv.Itoa(f.Status) + " because a fault says so"
	if t.kind == KindStorage {
		return storageError(f.Status, "Fault", message)
	}
	return ociError(f.Status, faultCode(f.Status, t.kind), message)
}

// faultCode is the code that registries send with a status.
func faultCode(status int, kind string) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHORIZED"
	case http.StatusForbidden:
		return "DENIED"
	case http.StatusTooManyRequests:
		return "TOOMANYREQUESTS"
	case http.StatusNotFound:
		return unknownCode(kind)
	}
	return "UNKNOWN"
}

// cut returns after how many of size body bytes the connection ends, and
// whether it does.
func (f *Fault) cut(size int64) (int64, bool) {
	switch {
	case f.CutAt > 0:
		return f.CutAt, f.CutAt <= size
	case f.CutShare > 0:
		return min(size, int64(float64(size)*f.CutShare)), true
	}
	return 0, false
}

// stall returns after how many body bytes sending stops, and whether it does.
func (f *Fault) stall() (int64, bool) { return max(f.StallAt, 0), f.StallAt != 0 }

// corrupt flips a bit of chunk, which starts at offset at of the body, if the
// fault's byte is in it.
func (f *Fault) corrupt(chunk []byte, at int64) {
	if !f.Corrupt && f.CorruptAt <= 0 {
		return
	}
	if i := f.CorruptAt - at; i >= 0 && i < int64(len(chunk)) {
		chunk[i] ^= 1
	}
}
