package main

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"
)

// format is the form of a command's output; a flag.Value that takes no unknown one.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	if s != "text" && s != "json" {
		return errors.New("it can be text or json")
	}
	*f = format(s)
	return nil
}

func outputFlag(cmd *cobra.Command, output *format) {
	*output = "text"
	cmd.Flags().VarP(output, "output", "o", "`format` of the output: text or json")
}

// print writes v as the user asked for it: as JSON, or by text.
func print(w io.Writer, output format, v any, text func(io.Writer) error) error {
	if output == "text" {
		return text(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
