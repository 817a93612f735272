package refs

import (
	"iter"
	"path/filepath"
	"strings"
)

// Repos goes through all repositories that have a tag or a manifest folder, in
// no particular order. A folder that can't be read yields an error in place of
// a repository, and the walk goes on. Refs may change meanwhile.
func (d *Dir) Repos() iter.Seq2[Repo, error] {
	return func(yield func(Repo, error) bool) {
		hosts, err := list(d.path)
		if err != nil && !yield(Repo{}, err) {
			return
		}
		for _, host := range hosts {
			if host.IsDir() && validHost(host.Name()) && !d.walk(Repo{Upstream: host.Name()}, yield) {
				return
			}
		}
	}
}

// walk yields r, if it is a repository, and those below it. False means stop.
// Names get longer with every level, and a name that is too long is none, so the depth is bounded.
func (d *Dir) walk(r Repo, yield func(Repo, error) bool) bool {
	entries, err := list(filepath.Join(d.path, r.Upstream, filepath.FromSlash(r.Name)))
	if err != nil && !yield(Repo{}, err) {
		return false
	}
	has := false
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() {
			continue
		}
		if name == tagsDir || name == manifestsDir {
			has = has || r.Name != ""
			continue
		}
		below := Repo{Upstream: r.Upstream, Name: strings.TrimPrefix(r.Name+"/"+name, "/")}
		if below.Check() == nil && !d.walk(below, yield) {
			return false
		}
	}
	return !has || yield(r, nil)
}
