package main

import (
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/entrepot/entrepot/internal/registrytest"
)

// A demo is a registry with something to pull:
//
//	library/demo:1       an image of two layers; $MANIFEST, $LAYER and $BIG are the digests of
//	                     the manifest and the layers, $LAYER_SIZE and $BIG_SIZE their sizes
//	team/tools:v1 … v5   the same image
//
// An SBOM and a signature refer to the manifest of library/demo.
type demo struct {
	*registrytest.Server
	image registrytest.Image
}

const (
	demoRepo  = "library/demo"
	toolsRepo = "team/tools"
)

func newDemo(o registrytest.Options) (*demo, error) {
	s, err := registrytest.New(o)
	if err != nil {
		return nil, err
	}
	small, big := registrytest.Synthetic(1, 10_000), registrytest.Synthetic(2, 3_000_000)
	img := s.AddImageContent(demoRepo, "1", small, big)
	for i := range 5 {
		s.AddImageContent(toolsRepo, fmt.Sprintf("v%d", i+1), small, big)
	}
	s.AddReferrer(demoRepo, img.Manifest, "application/vnd.example.sbom", nil)
	s.AddReferrer(demoRepo, img.Manifest, "application/vnd.example.signature", nil)
	return &demo{s, img}, nil
}

// cmdRegistry is `registry start [FLAGS] | stop | resume | log | headers | bytes | forget`.
// Start sets $UPSTREAM and what a demo holds.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	s := standOf(ts)
	if neg || len(args) == 0 || args[0] != "start" && s.registry == nil {
		ts.Fatalf("usage: registry start [FLAGS], then registry stop | resume | log | headers | bytes | forget")
	}
	switch args[0] {
	case "start":
		d, err := newDemo(registryOptions(ts, args[1:]))
		ts.Check(err)
		s.registry = d
		ts.Defer(func() { _ = d.Close() })
		d.export(ts)
	case "stop":
		s.registry.Pause()
	case "resume":
		ts.Check(s.registry.Resume())
	case "log": // a line for each request
		for _, r := range s.registry.Log() {
			fmt.Fprintln(ts.Stdout(), r.Method, r.Kind, r.Repo, r.Ref, r.Status)
		}
		fmt.Fprint(ts.Stdout()) // no request: an empty log, not the output of the command before
	case "headers": // of all requests
		for _, r := range s.registry.Log() {
			for k, values := range r.Header {
				fmt.Fprintf(ts.Stdout(), "%s: %s\n", k, strings.Join(values, ", "))
			}
		}
	case "bytes": // of blobs that it has sent
		fmt.Fprintln(ts.Stdout(), s.registry.BodyBytes(registrytest.Match{Kind: registrytest.KindBlob}))
	case "forget": // all requests so far
		s.registry.Reset()
	default:
		ts.Fatalf("registry: unknown %q", args[0])
	}
}

func registryOptions(ts *testscript.TestScript, args []string) registrytest.Options {
	var o registrytest.Options
	fs := flag.NewFlagSet("registry start", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&o.Storage, "storage", false, "blobs are behind a redirect")
	fs.StringVar((*string)(&o.Auth), "auth", "", "basic or bearer")
	fs.StringVar(&o.User, "user", "", "")
	fs.StringVar(&o.Password, "password", "", "")
	fs.IntVar(&o.Page, "page", 0, "most tags in one answer")
	ts.Check(fs.Parse(args))
	return o
}

// export tells the script what there is.
func (d *demo) export(ts *testscript.TestScript) {
	ts.Setenv("UPSTREAM", d.Host())
	ts.Setenv("MANIFEST", d.image.Manifest.Digest.String())
	ts.Setenv("MANIFEST_TEXT", string(d.image.Raw))
	ts.Setenv("MANIFEST_SIZE", strconv.FormatInt(d.image.Manifest.Size, 10))
	ts.Setenv("LAYER", d.image.Layers[0].Digest.String())
	ts.Setenv("LAYER_SIZE", strconv.FormatInt(d.image.Layers[0].Size, 10))
	ts.Setenv("BIG", d.image.Layers[1].Digest.String())
	ts.Setenv("BIG_SIZE", strconv.FormatInt(d.image.Layers[1].Size, 10))
}
