//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// hostOr is the upstream that a tool pulls from unless it says otherwise.
func hostOr(from string) string {
	if from == "" {
		return "registry.test"
	}
	return from
}

// image is how the image is named there.
func image(host string) string {
	if host == "docker.io" {
		return host + "/library/app:1"
	}
	return host + "/app:1"
}

func contains(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// skopeo with registries.conf: its mirror's address names the upstream.
type skopeo struct{ from string }

func (skopeo) needs() ([]string, bool) { return []string{"skopeo"}, false }
func (skopeo) everything() bool        { return true }
func (s skopeo) host() string          { return hostOr(s.from) }

func (s skopeo) session(t *testing.T, dir string, d *daemon) session {
	return copied{host: s.host(), dir: filepath.Join(dir, "image"), tmp: dir, conf: registriesConf(t, dir, d, s.host())}
}

type copied struct{ host, dir, tmp, conf string }

func (c copied) pull(ctx context.Context) error {
	_, err := run(ctx, []string{"TMPDIR=" + c.tmp}, "skopeo", "--insecure-policy", "--registries-conf", c.conf,
		"copy", "--all", "docker://"+image(c.host), "dir:"+c.dir)
	return err
}

// check hashes all that was copied. Of the index skopeo writes a version of its
// own, so what it lists is compared, and the index itself as skopeo inspects it.
func (c copied) check(t *testing.T, want *content) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	manifests := map[v1.Hash]bool{want.digest: true}
	for _, m := range index.Manifests {
		manifests[m.Digest] = true
		checkFile(t, filepath.Join(c.dir, m.Digest.Hex+".manifest.json"), m.Digest)
	}
	if len(manifests) != 3 || !manifests[want.amd64.manifest] {
		t.Errorf("skopeo has copied %v, want two manifests, %s among them", manifests, want.amd64.manifest)
	}
	for d := range want.whole {
		if !manifests[d] {
			checkFile(t, filepath.Join(c.dir, d.Hex), d)
		}
	}
	seen := mustRun(t, nil, "skopeo", "--registries-conf", c.conf, "inspect", "--raw", "docker://"+image(c.host))
	if seen != string(want.raw) {
		t.Errorf("skopeo sees the index\n%s, want\n%s", seen, want.raw)
	}
}

// podman with registries.conf and a store of its own.
type podman struct{}

func (podman) needs() ([]string, bool) { return []string{"podman", "unshare"}, true }
func (podman) everything() bool        { return false }
func (podman) host() string            { return "registry.test" }

func (p podman) session(t *testing.T, dir string, d *daemon) session {
	return pod{dir: dir, conf: registriesConf(t, dir, d, p.host())}
}

type pod struct{ dir, conf string }

func (p pod) podman(ctx context.Context, args ...string) (string, error) {
	all := isolated("podman", "--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"),
		"--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none")
	all = append(all, args...)
	return run(ctx, []string{"CONTAINERS_REGISTRIES_CONF=" + p.conf, "TMPDIR=" + p.dir}, all[0], all[1:]...)
}

func (p pod) pull(ctx context.Context) error {
	_, err := p.podman(ctx, "pull", "registry.test/app:1")
	return err
}

// check compares the image's names, and the layers as they come out of the store again.
func (p pod) check(t *testing.T, want *content) {
	t.Helper()
	out, err := p.podman(t.Context(), "image", "inspect", "registry.test/app:1")
	if err != nil {
		t.Fatal(err)
	}
	var images []struct {
		ID          string `json:"Id"`
		RepoDigests []string
	}
	if err := json.Unmarshal([]byte(out), &images); err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 || images[0].ID != want.amd64.config.Hex ||
		!contains(strings.Join(images[0].RepoDigests, " "), want.digest.String(), want.amd64.manifest.String()) {
		t.Errorf("podman holds %s, want config %s, manifest %s, index %s", out, want.amd64.config, want.amd64.manifest, want.digest)
	}
	archive := filepath.Join(p.dir, "saved.tar")
	if _, err := p.podman(t.Context(), "save", "--quiet", "--format", "docker-archive", "--output", archive, "registry.test/app:1"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	checkArchive(t, f, want)
}

// crane has no mirrors: it addresses the daemon.
type crane struct{ from string }

func (crane) needs() ([]string, bool) { return []string{"crane"}, false }
func (crane) everything() bool        { return true }
func (c crane) host() string          { return hostOr(c.from) }

func (c crane) session(_ *testing.T, dir string, d *daemon) session {
	return pulled{ref: d.addr + "/" + image(c.host()), dir: filepath.Join(dir, "layout")}
}

type pulled struct{ ref, dir string }

func (p pulled) pull(ctx context.Context) error {
	_, err := run(ctx, nil, "crane", "pull", "--insecure", "--format", "oci", p.ref, p.dir)
	return err
}

// check hashes all that is in the layout.
func (p pulled) check(t *testing.T, want *content) {
	t.Helper()
	for d := range want.whole {
		checkFile(t, filepath.Join(p.dir, "blobs", "sha256", d.Hex), d)
	}
}
