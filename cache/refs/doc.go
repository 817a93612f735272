// Package refs keeps what names point to as files, the way git does: a tag of
// a repository is a file, and so is the fact that a repository has a digest as
// a manifest.
//
// The invariant: a name that has not been checked never becomes part of a
// path, and a file that is not exactly what was once written under that name
// (torn, damaged, put there by somebody else) counts as not being there.
//
// The layout below a Dir:
//
//	<upstream>/<repository>/_tags/<tag>              the file's time is when the tag was last checked
//	<upstream>/<repository>/_manifests/<alg>-<hex>
//	_tmp/                                            files being written; emptied by Open
//
// No part of a host or repository name begins with an underscore, so these
// folders never meet a name.
//
// A file holds one line: a format mark, the name it stands under, the digest,
// the media type and a CRC-32C of what precedes it. Files are replaced by
// rename and never synced: one lost with the power is asked for upstream again.
package refs
