// Command entrepot is a pull-through cache for container images: it stands
// between container runtimes and the registries they pull from.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
