//go:build linux

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// containerd 1.6 and later, through ctr with hosts.toml: it says by ns which registry it means.
type containerd struct{}

func (containerd) needs() ([]string, bool) {
	return []string{"containerd", "ctr", "runc", "unshare"}, true
}
func (containerd) everything() bool { return false }
func (containerd) host() string     { return "registry.test" }

func (containerd) session(t *testing.T, dir string, d *daemon) session {
	one := ctr{dir: dir, socket: filepath.Join(dir, "sock"), hosts: filepath.Join(dir, "certs.d")}
	write(t, filepath.Join(one.hosts, "registry.test", "hosts.toml"), fmt.Sprintf(`
server = "http://127.0.0.1:1"

[host."http://%s"]
  capabilities = ["pull", "resolve"]
`, d.addr))
	config := filepath.Join(dir, "config.toml")
	write(t, config, fmt.Sprintf(`
version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
  address = %q

[ttrpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), one.socket, one.socket+".ttrpc"))
	p := start(t, filepath.Join(dir, "log"), command(isolated("containerd", "-c", config)))
	p.await(t, "containerd's answer", 30*time.Second, func() error {
		_, err := one.ctr(t.Context(), "version")
		return err
	})
	return one
}

type ctr struct{ dir, socket, hosts string }

func (c ctr) ctr(ctx context.Context, args ...string) (string, error) {
	return run(ctx, nil, "ctr", append([]string{"-a", c.socket, "-n", "e2e"}, args...)...)
}

func (c ctr) pull(ctx context.Context) error {
	_, err := c.ctr(ctx, "images", "pull", "--hosts-dir", c.hosts, "--platform", "linux/amd64", "registry.test/app:1")
	return err
}

// check hashes what is in the content store, and asks for the image that was made of it.
func (c ctr) check(t *testing.T, want *content) {
	t.Helper()
	blobs := filepath.Join(c.dir, "root", "io.containerd.content.v1.content", "blobs", "sha256")
	checkFile(t, filepath.Join(blobs, want.digest.Hex), want.digest)
	for d := range want.amd64.blobs {
		checkFile(t, filepath.Join(blobs, d.Hex), d)
	}
	out, err := c.ctr(t.Context(), "images", "check", "--snapshotter", "overlayfs")
	if err != nil {
		t.Fatal(err)
	}
	if !contains(out, "registry.test/app:1", want.digest.String(), "complete", "true") {
		t.Errorf("the image is not complete and unpacked:\n%s", out)
	}
}
