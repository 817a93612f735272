package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot/entrepot/cache"
)

// Status is what the daemon says of itself over the admin socket.
type Status struct {
	Version  string    `json:"version"`
	Instance string    `json:"instance"`
	Started  time.Time `json:"started"`
	Listen   []string  `json:"listen"`
	Config   struct {
		File     string    `json:"file,omitempty"`
		LoadedAt time.Time `json:"loadedAt"`
		Error    string    `json:"error,omitempty"` // why the latest reload changed nothing
		Restart  []string  `json:"restartNeeded,omitempty"`
	} `json:"config"`
	Cache struct {
		Dir     string `json:"dir"`
		Held    int64  `json:"bytesHeld"`
		Allowed int64  `json:"bytesAllowed"`
		Blobs   int64  `json:"blobs"`
		Fills   int64  `json:"fills"`
		Waiters int64  `json:"waiters"`
		Landed  int64  `json:"bytesFetched"`
		Evicted int64  `json:"evicted"`
		Through int64  `json:"passedThrough"`
		Index   bool   `json:"indexLoaded"`
	} `json:"cache"`
	Upstreams []string `json:"upstreams"`
}

func (s *Status) setCache(dir string, st cache.Stats) {
	s.Cache.Dir, s.Cache.Held, s.Cache.Allowed, s.Cache.Blobs = dir, st.BytesHeld, st.BytesAllowed, st.Blobs
	s.Cache.Fills, s.Cache.Waiters, s.Cache.Landed = st.Fills, st.Waiters, st.Landed
	s.Cache.Evicted, s.Cache.Through, s.Cache.Index = st.Evicted, st.Through, st.IndexLoaded
}

// adminHandler serves the operators' API and pprof, for the admin socket only.
func adminHandler(status func() Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status()) // the operator has gone
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// askAdmin asks a running daemon over its admin socket.
func askAdmin(ctx context.Context, socket, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("no daemon answers on %s (is it running, and is admin.socket the same in its configuration?): %w", socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the daemon on %s answered %s", socket, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(into)
}

func newStatus() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what the running daemon holds and does",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			var st Status
			if err := askAdmin(cmd.Context(), string(cfg.Admin.Socket), "/v1/status", &st); err != nil {
				return err
			}
			return print(cmd.OutOrStdout(), output, st, st.print)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (s Status) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("entrepot", "%s, up %s", s.Version, time.Since(s.Started).Round(time.Second))
	for _, l := range s.Listen {
		row("listening", "%s", l)
	}
	row("cache", "%s of %s in %s, %d blobs", size(s.Cache.Held), size(s.Cache.Allowed), s.Cache.Dir, s.Cache.Blobs)
	row("fills", "%d running, %d waiting readers", s.Cache.Fills, s.Cache.Waiters)
	row("fetched", "%s since the start", size(s.Cache.Landed))
	row("evicted", "%d", s.Cache.Evicted)
	row("passed through", "%d answers that the disk could not take", s.Cache.Through)
	if !s.Cache.Index {
		row("index", "being rebuilt")
	}
	if s.Config.Error != "" {
		row("configuration", "the latest reload changed nothing: %s", s.Config.Error)
	}
	for _, key := range s.Config.Restart {
		row("restart needed", "%s has changed", key)
	}
	row("upstreams", "%d", len(s.Upstreams))
	return errors.Join(t.Flush())
}

// size prints bytes as people read them.
func size(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}
