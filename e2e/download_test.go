//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func sha256Of(b []byte) v1.Hash {
	d, _, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return v1.Hash{}
	}
	return d
}

// A download is a client with one connection that fetches one blob.
type download struct {
	want     v1.Descriptor
	pause    time.Duration // after each MiB
	client   *http.Client
	conns    atomic.Int64 // connections opened
	got      atomic.Int64 // bytes so far
	finished chan error   // gets one value
}

// fetch begins a download through d.
func fetch(t *testing.T, d *daemon, want v1.Descriptor, pause time.Duration) *download {
	t.Helper()
	tr := &http.Transport{MaxConnsPerHost: 1}
	t.Cleanup(tr.CloseIdleConnections)
	f := &download{want: want, pause: pause, client: &http.Client{Transport: tr}, finished: make(chan error, 1)}
	ctx := f.context(t.Context())
	go func() { f.finished <- f.blob(ctx, "http://"+d.addr) }()
	return f
}

// context counts the connections.
func (f *download) context(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			f.conns.Add(1)
		}
	}})
}

// blob fetches the blob and compares its digest.
func (f *download) blob(ctx context.Context, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v2/registry.test/app/blobs/"+f.want.Digest.String(), nil)
	if err != nil {
		return err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("blob: %s", resp.Status)
	}
	hash := sha256.New()
	for err == nil {
		var n int64
		n, err = io.CopyN(hash, resp.Body, 1<<20)
		f.got.Add(n)
		if f.pause > 0 {
			select {
			case <-time.After(f.pause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	if err != io.EOF {
		return fmt.Errorf("after %d bytes: %w", f.got.Load(), err)
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != f.want.Digest.Hex {
		return fmt.Errorf("the blob came as sha256:%s, want %s", sum, f.want.Digest)
	}
	return nil
}

// end waits until the download has ended.
func (f *download) end(t *testing.T, within time.Duration) error {
	t.Helper()
	select {
	case err := <-f.finished:
		return err
	case <-time.After(within):
		t.Fatalf("a download has not ended within %v", within)
		return nil
	}
}

// running fails unless the download still runs: a test that comes too late proves nothing.
func (f *download) running(t *testing.T) {
	t.Helper()
	select {
	case err := <-f.finished:
		t.Fatalf("the download has ended too early for this test: %v", err)
	default:
	}
}
