package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/config"
)

// loadConfig reads the configuration that the command was given.
func loadConfig(cmd *cobra.Command) (*config.Config, error) {
	path, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	return readConfig(path)
}

func readConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path, os.LookupEnv)
	if err != nil {
		return nil, usageError{err}
	}
	if err := cfg.Resolve(os.LookupEnv, os.Geteuid()); err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

func newConfig() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration"}
	cmd.AddCommand(newConfigCheck(), newConfigShow(), &cobra.Command{
		Use:   "example",
		Short: "Print a commented configuration with every key and its default",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Example())
			return err
		},
	})
	return group(cmd)
}

func newConfigCheck() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say whether a configuration is right, and if not, where it is wrong",
		Args:  maxOneArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			if len(args) == 1 {
				path = args[0]
			}
			cfg, err := readConfig(path)
			if err != nil {
				return err
			}
			if _, err := newRegistries(cfg, nil, shared{}); err != nil { // reads the files that it names
				return usageError{fmt.Errorf("%s: %w", path, err)}
			}
			report := struct {
				File      string `json:"file"`
				OK        bool   `json:"ok"`
				Upstreams int    `json:"upstreams"`
			}{path, true, len(cfg.Upstreams)}
			return print(cmd.OutOrStdout(), output, report, func(w io.Writer) error {
				if path == "" {
					path = "the defaults"
				}
				_, err := fmt.Fprintf(w, "%s: ok, %d upstreams\n", path, report.Upstreams)
				return err
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func newConfigShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in force with every default, without secrets",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			raw, err := cfg.Show()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		},
	}
}

func maxOneArg(cmd *cobra.Command, args []string) error {
	if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}
