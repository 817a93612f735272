package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`format` of the output: text or json")
}

// print writes v as the user asked for it: as JSON, or by text.
func print(w io.Writer, output string, v any, text func(io.Writer) error) error {
	switch output {
	case "text":
		return text(w)
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	default:
		return usageError{fmt.Errorf("--output %q: it can be text or json", output)}
	}
}
