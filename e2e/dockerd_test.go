//go:build linux

package e2e

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// dockerd 20.10 with registry-mirrors: it does not say which registry it means,
// for it uses mirrors for Docker Hub only.
type dockerd struct{}

func (dockerd) needs() ([]string, bool) {
	return []string{"dockerd", "containerd", "runc", "iptables", "unshare"}, true
}
func (dockerd) everything() bool { return false }
func (dockerd) host() string     { return "docker.io" }

func (dockerd) session(t *testing.T, dir string, d *daemon) session {
	socket := filepath.Join(dir, "sock")
	p := start(t, filepath.Join(dir, "log"), command(isolated("dockerd",
		"--config-file", "", "--iptables=false", "--ip-forward=false", "--bridge=none", "--storage-driver=overlay2",
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"-H", "unix://"+socket, "-p", filepath.Join(dir, "pid"), "--registry-mirror", "http://"+d.addr)))
	one := engine{&http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
	t.Cleanup(one.http.CloseIdleConnections)
	p.await(t, "dockerd's answer", 30*time.Second, func() error {
		_, err := one.ask(t.Context(), http.MethodGet, "/_ping")
		return err
	})
	return one
}

// engine is a client of Docker's API.
type engine struct{ http *http.Client }

func (e engine) open(ctx context.Context, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.41"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	return resp.Body, nil
}

func (e engine) ask(ctx context.Context, method, path string) ([]byte, error) {
	body, err := e.open(ctx, method, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func (e engine) pull(ctx context.Context) error {
	body, err := e.open(ctx, http.MethodPost, "/images/create?fromImage=app&tag=1")
	if err != nil {
		return err
	}
	defer body.Close()
	for steps := json.NewDecoder(body); ; {
		var step struct{ Error string }
		if err := steps.Decode(&step); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if step.Error != "" {
			return errors.New(step.Error)
		}
	}
}

// check compares the image's names, and the layers as they come out of the store again.
func (e engine) check(t *testing.T, want *content) {
	t.Helper()
	raw, err := e.ask(t.Context(), http.MethodGet, "/images/app:1/json")
	if err != nil {
		t.Fatal(err)
	}
	var image struct {
		ID          string `json:"Id"`
		RepoDigests []string
	}
	if err := json.Unmarshal(raw, &image); err != nil {
		t.Fatal(err)
	}
	if image.ID != want.amd64.config.String() || !slices.Contains(image.RepoDigests, "app@"+want.digest.String()) {
		t.Errorf("dockerd holds %s, want config %s of index %s", raw, want.amd64.config, want.digest)
	}
	archive, err := e.open(t.Context(), http.MethodGet, "/images/app:1/get")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	checkArchive(t, archive, want)
}

// checkArchive compares a docker-archive, as of docker save, with what was
// pushed: every layer, unpacked and packed again, must have its diff ID.
func checkArchive(t *testing.T, r io.Reader, want *content) {
	t.Helper()
	digests := map[string]v1.Hash{}
	links := map[string]string{}
	var manifest []struct {
		Config string
		Layers []string
	}
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("read the saved image: %v", err)
		}
		switch {
		case h.Name == "manifest.json":
			if err := json.NewDecoder(archive).Decode(&manifest); err != nil {
				t.Fatal(err)
			}
		case h.Typeflag == tar.TypeSymlink:
			links[h.Name] = filepath.Join(filepath.Dir(h.Name), h.Linkname)
		case h.Typeflag == tar.TypeReg:
			if digests[h.Name], _, err = v1.SHA256(archive); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(manifest) != 1 {
		t.Fatalf("%d images were saved, want 1", len(manifest))
	}
	if got := strings.TrimSuffix(filepath.Base(manifest[0].Config), ".json"); got != want.amd64.config.Hex {
		t.Errorf("the saved image has config %s, want %s", got, want.amd64.config)
	}
	var got []v1.Hash
	for _, name := range manifest[0].Layers {
		if to, ok := links[name]; ok {
			name = to
		}
		got = append(got, digests[name])
	}
	if !slices.Equal(got, want.amd64.diffIDs) {
		t.Errorf("the saved image has layers\n%v, want\n%v", got, want.amd64.diffIDs)
	}
}
