// Command registrytest runs a registry with made-up images, slow or broken on
// request, for trying a cache or a client against:
//
//	registrytest --listen 127.0.0.1:5555 --storage --image library/demo:1=3x20MiB
//
// It runs until interrupted, then prints what it has served.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/entrepot/entrepot/internal/registrytest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "registrytest:", err)
		}
		os.Exit(2)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o registrytest.Options
	var images []image
	var caDir, auth string
	fs := flag.NewFlagSet("registrytest", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.Listen, "listen", "127.0.0.1:0", "`host:port` of the registry")
	fs.BoolVar(&o.TLS, "tls", false, "serve HTTPS with a self-signed certificate")
	fs.BoolVar(&o.HTTP2, "http2", false, "with --tls: offer HTTP/2")
	fs.StringVar(&caDir, "ca-dir", "", "with --tls: `folder` for the certificate of the authority")
	fs.BoolVar(&o.Storage, "storage", false, "redirect blobs to signed addresses on a second port")
	fs.DurationVar(&o.AddressLife, "address-life", 0, "with --storage: how long an address holds; 0: for ever")
	fs.StringVar(&auth, "auth", "", "how clients sign in: basic or bearer; none if empty")
	fs.StringVar(&o.User, "user", "", "user name; with --auth bearer, none issues tokens to anybody")
	fs.StringVar(&o.Password, "password", "", "password")
	fs.DurationVar(&o.TokenLife, "token-life", 0, "how long a token holds; 0: 5 minutes")
	fs.Func("per-conn", "bytes a second for each connection, such as `10MiB`", sizeFlag(&o.PerConn))
	fs.Func("total", "bytes a second for all connections together, such as `100MiB`", sizeFlag(&o.Total))
	fs.BoolVar(&o.NoHead, "no-head", false, "refuse HEAD")
	fs.BoolVar(&o.NoRanges, "no-ranges", false, "ignore ranges")
	fs.BoolVar(&o.NoReferrers, "no-referrers", false, "have no referrers API")
	fs.BoolVar(&o.NoContentDigest, "no-content-digest", false, "send no Docker-Content-Digest")
	fs.Func("image", "hold an image, `repo:tag=layersxsize`, such as library/demo:1=3x20MiB; may be repeated", func(text string) error {
		img, err := parseImage(text)
		images = append(images, img)
		return err
	})
	var f registrytest.Fault
	addFaultFlags(fs, &f)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.Auth = registrytest.Auth(auth)
	s, err := registrytest.New(o)
	if err != nil {
		return err
	}
	defer s.Close()
	if fs.Lookup("fault-kind").Value.String() != "" {
		s.Break(f)
	}
	announce(s, images, caDir, stdout)
	<-ctx.Done()
	summary(s, stdout)
	return nil
}

// addFaultFlags adds one fault; the API of the package has more.
func addFaultFlags(fs *flag.FlagSet, f *registrytest.Fault) {
	fs.StringVar(&f.Match.Kind, "fault-kind", "", "break requests of this `kind`: ping, manifest, blob, storage, token, tags, referrers")
	fs.IntVar(&f.Times, "fault-times", 0, "how many requests to break; 0: all")
	fs.IntVar(&f.Skip, "fault-skip", 0, "how many requests to let through first")
	fs.IntVar(&f.Status, "fault-status", 0, "answer with this status")
	fs.Float64Var(&f.CutShare, "fault-cut", 0, "end the connection after this `share` of the body, such as 0.6")
	fs.Int64Var(&f.StallAt, "fault-stall", 0, "stop sending after so many `bytes`")
	fs.BoolVar(&f.Corrupt, "fault-corrupt", false, "flip a bit of the first byte")
	fs.DurationVar(&f.Delay, "fault-delay", 0, "wait so long before answering")
}

func announce(s *registrytest.Server, images []image, caDir string, stdout io.Writer) {
	fmt.Fprintln(stdout, s.URL())
	if caDir != "" {
		fmt.Fprintln(stdout, "certificate", s.CAFile(caDir))
	}
	seed := uint64(1)
	for _, img := range images {
		layers := make([]*registrytest.Content, img.layers)
		for i := range layers {
			layers[i] = registrytest.SyntheticTar(fmt.Sprintf("layer-%d", i), seed, img.size)
			seed++
		}
		held := s.AddImageContent(img.repo, img.tag, layers...)
		fmt.Fprintf(stdout, "image %s/%s:%s %s\n", s.Host(), img.repo, img.tag, held.Manifest.Digest)
	}
}

func summary(s *registrytest.Server, stdout io.Writer) {
	sent, received := s.SocketBytes()
	fmt.Fprintf(stdout, "%d connections, %d bytes sent, %d received\n", s.Connections(), sent, received)
	for _, kind := range []string{
		registrytest.KindPing, registrytest.KindToken, registrytest.KindManifest, registrytest.KindTags,
		registrytest.KindReferrers, registrytest.KindBlob, registrytest.KindStorage,
	} {
		if n := s.Count(registrytest.Match{Kind: kind}); n.Requests > 0 {
			fmt.Fprintf(stdout, "%-10s %d requests, %d body bytes\n", kind, n.Requests, n.BodyBytes)
		}
	}
}

// image is one image to make up.
type image struct {
	repo, tag string
	layers    int
	size      int64 // bytes of each layer
}

// parseImage reads repo:tag=layersxsize.
func parseImage(text string) (image, error) {
	const form = "want repo:tag=layersxsize, such as library/demo:1=3x20MiB"
	ref, shape, ok := strings.Cut(text, "=")
	repo, tag, tagged := strings.Cut(ref, ":")
	count, size, shaped := strings.Cut(shape, "x")
	if !ok || !tagged || !shaped || repo == "" || tag == "" {
		return image{}, errors.New(form)
	}
	layers, err := strconv.Atoi(count)
	if err != nil || layers < 0 || layers > 1000 {
		return image{}, fmt.Errorf("%q is no number of layers from 0 to 1000: %s", count, form)
	}
	bytes, err := parseSize(size)
	if err != nil {
		return image{}, err
	}
	return image{repo: repo, tag: tag, layers: layers, size: bytes}, nil
}

func sizeFlag(to *int64) func(string) error {
	return func(text string) error {
		n, err := parseSize(text)
		*to = n
		return err
	}
}

// parseSize reads a number of bytes with an optional KiB, MiB or GiB.
func parseSize(text string) (int64, error) {
	number, unit := text, int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = n, int64(1)<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<60)/unit {
		return 0, fmt.Errorf("%q is no size such as 512, 20MiB, 1GiB", text)
	}
	return n * unit, nil
}
