package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/config"
)

// Exit codes, as docs/commands.md has them.
const (
	exitOK     = 0
	exitFailed = 1 // the command could not do what it was asked for
	exitUsage  = 2 // wrong flags, arguments or configuration
)

// usageError is an error of whoever called the command.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is the program: it runs one command and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newRoot()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*config.Error](err); ok {
		fmt.Fprintln(stderr, err) // each line has its own place before it
	} else {
		fmt.Fprintf(stderr, "entrepot: %v\n", err)
	}
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "entrepot",
		Short:         "A pull-through cache for container images",
		Long:          "entrepot stands between container runtimes and the registries they pull from:\nit fetches each byte once, keeps it verified, and serves it from disk.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringP("config", "c", os.Getenv("ENTREPOT_CONFIG"), "configuration `file` ($ENTREPOT_CONFIG); none: the defaults")
	root.AddCommand(newServe(), newStatus(), newConfig(), newVersion())
	return group(root)
}

// group makes cmd one that only has others below it: alone it prints its help,
// and a word that is none of them is a mistake.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := ""
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			hint = "; did you mean " + like[0] + "?"
		}
		return usageError{fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)}
	}
	return cmd
}

func newVersion() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version(), goVersion()}
			return print(cmd.OutOrStdout(), output, info, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "entrepot %s (%s)\n", info.Version, info.Go)
				return err
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// noArgs is cobra.NoArgs with the exit code of a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}

// version is what the module or the tree that the binary was built from is called.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

func goVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.GoVersion
	}
	return "unknown"
}
