// Package index answers quickly what is slow to tell from the files: size,
// last use and use count of each digest, and through which repositories a
// digest may be had.
//
// The invariant: all of it can be lost. Every row can be derived from the
// files or be done without, so nothing here is ever a reason to fail: no
// method waits for a disk, and a snapshot that is missing, cut short or
// damaged means a rebuild in the background, not an error.
//
// Rows live in badger, in memory only, because badger on disk maps its files:
// a full disk kills the process with SIGBUS (docs/adr/0002). Beneath the
// folder of the index there are just
//
//	snapshot   all rows, with a SHA-256 at the end; replaced by write, fsync, rename
//	clean      that checksum once more, written by Close and taken away by Open:
//	           without it the snapshot is older than the files, and NeedRebuild
//
// Changes are gathered in memory (pending.go) and written to badger in batches
// by one goroutine, which also loads the snapshot and writes it, and which
// Close joins. Reads put what is pending over what badger holds, so a change
// is visible at once.
package index
