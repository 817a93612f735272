package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// A response is an http.ResponseWriter that counts, and that keeps ReadFrom: a
// file handed to it goes to a socket by sendfile.
type response struct {
	http.ResponseWriter
	id        string
	began     time.Time
	status    int           // 0: nothing sent yet
	sent      int64         // bytes of the body
	firstByte time.Duration // until the headers
	cut       bool          // the body must not be ended as if it were whole
	lost      bool          // the client takes no more
	stalled   time.Duration // > 0: a write may last so long
}

// step is how much is written under one deadline.
const step = 1 << 20

func newResponse(w http.ResponseWriter, r *http.Request, stalled time.Duration) *response {
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	out := &response{ResponseWriter: w, id: hex.EncodeToString(id[:]), began: time.Now()}
	if _, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); !tcp || r.ProtoMajor > 1 || !kernelTimeouts {
		out.stalled = stalled
	}
	return out
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	w.status = status
	w.firstByte = time.Since(w.began) // the body follows at once: it is not begun before there is some of it
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	w.lost = w.lost || err != nil && !errors.Is(err, http.ErrBodyNotAllowed)
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (w *response) ReadFrom(r io.Reader) (total int64, err error) {
	rf, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	if w.stalled <= 0 {
		return w.readFrom(rf, r)
	}
	for {
		w.extend()
		n, err := w.readFrom(rf, io.LimitReader(r, step))
		total += n
		if err != nil || n < step {
			return total, err
		}
	}
}

// readFrom hands r on, which may be a file on a disk that fails: what the network says is the client's doing.
func (w *response) readFrom(rf io.ReaderFrom, r io.Reader) (int64, error) {
	n, err := rf.ReadFrom(r)
	w.count(n)
	var op *net.OpError
	w.lost = w.lost || errors.As(err, &op)
	return n, err
}

func (w *response) count(n int64) { w.sent += n }

// extend gives the next write its time, where the kernel does not.
func (w *response) extend() {
	if w.stalled > 0 {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.stalled)) // not all writers can
	}
}
