package refs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	tagsDir      = "_tags"
	manifestsDir = "_manifests"
	tempDir      = "_tmp"
)

// Tag is what a tag pointed to when it was last checked.
type Tag struct {
	Digest    v1.Hash
	MediaType types.MediaType
	Checked   time.Time
}

// Dir is a folder of refs. Its methods may be called by many goroutines at
// once; of writers of one ref the last wins, readers see one or the other.
// One process at a time owns a Dir.
type Dir struct{ path string }

// Open returns the refs in path, which is made if need be, and removes what a
// process that died was writing. The Dir can be used even if it returns an
// error (a read-only folder): what is there is read, what can't be written says so.
func Open(path string) (*Dir, error) {
	d := &Dir{path: path}
	temp := filepath.Join(path, tempDir)
	err := errors.Join(os.RemoveAll(temp), os.MkdirAll(temp, 0o700))
	if err != nil {
		err = fmt.Errorf("refs: clean up: %w", err)
	}
	return d, err
}

// Tag returns what the tag points to; false if that is not known.
func (d *Dir) Tag(r Repo, tag string) (Tag, bool) {
	if r.Check() != nil || !validTag(tag) {
		return Tag{}, false
	}
	rec, checked, ok := read(d.tagPath(r, tag))
	return Tag{Digest: rec.digest, MediaType: rec.mediaType, Checked: checked}, ok
}

// SetTag points a tag to t.Digest, as of t.Checked; the zero time means now.
// Errors: ErrName, or what the file system says; the tag is then as it was.
func (d *Dir) SetTag(r Repo, tag string, t Tag) error {
	if err := checkTag(r, tag); err != nil {
		return err
	}
	rec := record{name: tag, digest: t.Digest, mediaType: t.MediaType}
	return d.write(d.tagPath(r, tag), rec, t.Checked)
}

// Touch records that the tag was checked at the time given and still points
// where it did. A tag that is not there stays away: fs.ErrNotExist.
func (d *Dir) Touch(r Repo, tag string, checked time.Time) error {
	if err := checkTag(r, tag); err != nil {
		return err
	}
	return os.Chtimes(d.tagPath(r, tag), checked, checked)
}

// DropTag forgets a tag. One that is not there is no error.
func (d *Dir) DropTag(r Repo, tag string) error {
	if err := checkTag(r, tag); err != nil {
		return err
	}
	return remove(d.tagPath(r, tag))
}

// Tags returns the tags of r in lexical (byte) order; none if the repository is not known.
// It reads every one of them, so that those which can't be read are left out.
func (d *Dir) Tags(r Repo) ([]string, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	entries, err := list(d.repoPath(r, tagsDir))
	var tags []string
	for _, e := range entries {
		if _, ok := d.Tag(r, e.Name()); ok {
			tags = append(tags, e.Name())
		}
	}
	return tags, err
}

// AddManifest records that r has the digest as a manifest of this type.
// Recording the same again costs one read.
func (d *Dir) AddManifest(r Repo, digest v1.Hash, mt types.MediaType) error {
	if err := checkDigest(r, digest); err != nil {
		return err
	}
	if have, ok := d.ManifestType(r, digest); ok && have == mt {
		return nil
	}
	rec := record{name: fileName(digest), digest: digest, mediaType: mt}
	return d.write(d.manifestPath(r, digest), rec, time.Time{})
}

// ManifestType returns the type of the manifest, if r has the digest as a manifest.
func (d *Dir) ManifestType(r Repo, digest v1.Hash) (types.MediaType, bool) {
	if checkDigest(r, digest) != nil {
		return "", false
	}
	rec, _, ok := read(d.manifestPath(r, digest))
	return rec.mediaType, ok && rec.digest == digest
}

// DropManifest forgets that r has the digest as a manifest. One that is not there is no error.
func (d *Dir) DropManifest(r Repo, digest v1.Hash) error {
	if err := checkDigest(r, digest); err != nil {
		return err
	}
	return remove(d.manifestPath(r, digest))
}

// Manifests returns digest and media type (only these) of all manifests of r,
// ordered by digest. Whether their content is here is not looked at.
func (d *Dir) Manifests(r Repo) ([]v1.Descriptor, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	entries, err := list(d.repoPath(r, manifestsDir))
	var all []v1.Descriptor
	for _, e := range entries {
		digest, ok := parseFileName(e.Name())
		if !ok {
			continue
		}
		if mt, ok := d.ManifestType(r, digest); ok {
			all = append(all, v1.Descriptor{Digest: digest, MediaType: mt})
		}
	}
	return all, err
}

func (d *Dir) repoPath(r Repo, sub string) string {
	return filepath.Join(d.path, r.Upstream, filepath.FromSlash(r.Name), sub)
}

func (d *Dir) tagPath(r Repo, tag string) string { return filepath.Join(d.repoPath(r, tagsDir), tag) }

func (d *Dir) manifestPath(r Repo, digest v1.Hash) string {
	return filepath.Join(d.repoPath(r, manifestsDir), fileName(digest))
}

func checkTag(r Repo, tag string) error {
	if !validTag(tag) {
		return fmt.Errorf("%w: tag %q", ErrName, tag)
	}
	return r.Check()
}

func checkDigest(r Repo, digest v1.Hash) error {
	if !validDigest(digest) {
		return fmt.Errorf("%w: digest %q", ErrName, digest)
	}
	return r.Check()
}

// read returns the record in a file and the file's time.
// It opens without blocking: a pipe in place of a file holds nobody up.
func read(path string) (record, time.Time, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return record{}, time.Time{}, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxRecord {
		return record{}, time.Time{}, false
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return record{}, time.Time{}, false
	}
	rec, ok := decode(filepath.Base(path), b)
	return rec, info.ModTime(), ok
}

// write puts a record in place by rename.
func (d *Dir) write(path string, rec record, when time.Time) error {
	if !validDigest(rec.digest) {
		return fmt.Errorf("%w: digest %q", ErrName, rec.digest)
	}
	if !validMediaType(rec.mediaType) {
		return fmt.Errorf("%w: media type %q", ErrName, rec.mediaType)
	}
	temp, err := d.temp(rec.encode(), when)
	if err != nil {
		return err
	}
	err = os.Rename(temp, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.Rename(temp, path)
		}
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// temp writes a file of its own and gives it its time.
func (d *Dir) temp(b []byte, when time.Time) (string, error) {
	dir := filepath.Join(d.path, tempDir)
	f, err := os.CreateTemp(dir, "")
	if errors.Is(err, fs.ErrNotExist) { // somebody tidied up
		if err = os.MkdirAll(dir, 0o700); err == nil {
			f, err = os.CreateTemp(dir, "")
		}
	}
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil && !when.IsZero() {
		err = os.Chtimes(f.Name(), when, when)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// list returns what is in a folder in byte order; nothing if there is no such folder.
func list(path string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = nil
	}
	return entries, err
}
