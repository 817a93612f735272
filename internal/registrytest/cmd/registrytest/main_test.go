package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"--image", "library/demo:1=2x1KiB"}, w, io.Discard)
		w.CloseWithError(io.EOF)
		done <- err
	}()
	lines := bufio.NewScanner(r)
	lines.Scan()
	url := lines.Text()
	lines.Scan()
	if !strings.Contains(lines.Text(), "/library/demo:1 sha256:") {
		t.Errorf("announced %q", lines.Text())
	}
	resp, err := http.Get(url + "/v2/library/demo/manifests/1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("manifest: %s", resp.Status)
	}
	stop()
	var rest []string
	for lines.Scan() {
		rest = append(rest, lines.Text())
	}
	if err := <-done; err != nil || len(rest) != 2 || !strings.HasPrefix(rest[1], "manifest   1 requests") {
		t.Errorf("%v, summary %q", err, rest)
	}
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{
		{"extra"}, {"--image", "demo"}, {"--image", "demo:1=x2"}, {"--image", "demo:1=2x2TB"}, {"--per-conn", "-1"}, {"--http2"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
