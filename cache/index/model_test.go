package index_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/entrepot/entrepot/cache/index"
)

var repos = []string{"", "a", "a/b", "docker.io/library/älpine"}

// model is what an index should be: two maps.
type model struct {
	facts map[v1.Hash]index.Facts
	early map[v1.Hash]int64 // uses before a Put, until the next write
	links map[string]map[v1.Hash]index.Link
}

func newModel() *model {
	m := &model{map[v1.Hash]index.Facts{}, map[v1.Hash]int64{}, map[string]map[v1.Hash]index.Link{}}
	for _, r := range repos {
		m.links[r] = map[v1.Hash]index.Link{}
	}
	return m
}

// change makes one random change to the model and to the index, and says which.
func (m *model) change(r *rand.Rand, x *index.Index) string {
	d, repo := digest(r.IntN(24)), repos[r.IntN(len(repos))]
	f, here := m.facts[d]
	switch op := r.IntN(7); op {
	case 0, 1:
		size := r.Int64N(1 << 40)
		x.Put(d, size)
		m.facts[d] = index.Facts{Size: size, Uses: f.Uses + m.early[d]}
		delete(m.early, d)
		return fmt.Sprint("put ", d, size)
	case 2:
		x.Touch(d)
		if here {
			f.Uses++
			m.facts[d] = f
		} else {
			m.early[d]++
		}
		return fmt.Sprint("touch ", d)
	case 3:
		x.Delete(d)
		delete(m.facts, d)
		delete(m.early, d)
		return fmt.Sprint("delete ", d)
	case 4, 5:
		l := index.Link{Digest: d, Size: r.Int64N(3), Kind: index.Kind(r.IntN(4))}
		x.Link(repo, l)
		was := m.links[repo][d]
		l.Kind |= was.Kind
		if l.Size == 0 {
			l.Size = was.Size
		}
		m.links[repo][d] = l
		return fmt.Sprint("link ", repo, l)
	default:
		x.Unlink(repo, d)
		delete(m.links[repo], d)
		return fmt.Sprint("unlink ", repo, d)
	}
}

func (m *model) content() content {
	c := content{m.facts, map[string][]index.Link{}}
	for repo, of := range m.links {
		if len(of) > 0 {
			c.Links[repo] = slices.SortedFunc(maps.Values(of), func(a, b index.Link) int {
				return strings.Compare(a.Digest.String(), b.Digest.String())
			})
		}
	}
	return c
}

func TestLikeAPairOfMaps(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r, m, dir := rand.New(rand.NewPCG(seed, 7)), newModel(), t.TempDir()
			x := open(t, dir, asked)
			rebuilt(t, x)
			history := []string{}
			for i := range 500 {
				switch r.IntN(100) {
				case 0, 1, 2:
					history = append(history, "write")
					write(t, x)
					clear(m.early)
				case 3:
					history = append(history, "reopen")
					closeIndex(t, x)
					x = open(t, dir, asked)
					clear(m.early)
				case 4:
					history = append(history, "kill")
					write(t, x)
					dir = copied(t, dir)
					closeIndex(t, x) // not what was copied
					x = open(t, dir, asked)
					clear(m.early)
					if !x.NeedRebuild() {
						t.Fatal("killed, but says it is complete")
					}
					rebuilt(t, x)
				default:
					history = append(history, m.change(r, x))
				}
				if got := contentOf(x, repos...); !reflect.DeepEqual(m.content(), got) || x.NeedRebuild() {
					t.Fatalf("step %d: %s\n%v", i, cmp.Diff(m.content(), got), history[max(0, len(history)-20):])
				}
				d, repo := digest(r.IntN(24)), repos[r.IntN(len(repos))]
				f, here := x.Facts(d)
				want, there := m.facts[d]
				l, linked := x.Linked(repo, d)
				wantLink, wantLinked := m.links[repo][d]
				if here != there || f.Size != want.Size || f.Uses != want.Uses || linked != wantLinked || l != wantLink {
					t.Fatalf("step %d: %v %v %v %v, want %v %v %v %v\n%v", i, f, here, l, linked,
						want, there, wantLink, wantLinked, history[max(0, len(history)-20):])
				}
			}
		})
	}
}

// Many change and read at once, while all is written again and again: each
// sees its own changes at once, and no use is lost.
func TestConcurrent(t *testing.T) {
	const workers, rounds = 8, 80
	dir := t.TempDir()
	x := open(t, dir, index.Options{Flush: 100 * time.Microsecond, Snapshot: time.Millisecond, MaxLinks: 10})
	rebuilt(t, x)
	shared := digest(1)
	x.Put(shared, 1)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for i := range rounds {
				x.Touch(shared)
				if msg := ownRow(x, digest(1000+w), fmt.Sprint("repo", w), int64(i)); msg != "" {
					t.Errorf("worker %d, round %d: %s", w, i, msg)
					return
				}
				if i%20 == 0 {
					for range x.All() {
					}
					write(t, x)
				}
			}
		})
	}
	group.Wait()
	closeIndex(t, x)
	x = open(t, dir, asked)
	if f, _ := x.Facts(shared); f.Uses != workers*rounds || x.NeedRebuild() {
		t.Fatalf("%d uses, want %d", f.Uses, workers*rounds)
	}
}

// ownRow changes a row that nobody else changes, and says what went wrong.
func ownRow(x *index.Index, d v1.Hash, repo string, size int64) string {
	x.Put(d, size)
	for range 20 { // long enough for it to be taken, written and forgotten meanwhile
		if f, ok := x.Facts(d); !ok || f.Size != size {
			return fmt.Sprint("put, but ", f, ok)
		}
	}
	x.Link(repo, index.Link{Digest: d, Size: size + 1, Kind: index.Manifest})
	for range 20 {
		if l, ok := x.Linked(repo, d); !ok || l.Size != size+1 || l.Kind != index.Manifest {
			return fmt.Sprint("linked, but ", l, ok)
		}
		if l := x.Links(repo); len(l) != 1 || l[0].Size != size+1 {
			return fmt.Sprint("linked, but listed ", l)
		}
	}
	x.Unlink(repo, d)
	if l, ok := x.Linked(repo, d); ok {
		return fmt.Sprint("unlinked, but ", l)
	}
	if size%2 == 0 {
		x.Delete(d)
		if f, ok := x.Facts(d); ok {
			return fmt.Sprint("deleted, but ", f)
		}
	}
	return ""
}

// Close comes while everybody is at work: nothing hangs, panics or races.
func TestCloseUnderLoad(t *testing.T) {
	for range 10 {
		x := open(t, t.TempDir(), index.Options{Flush: time.Millisecond, Snapshot: time.Millisecond})
		var group sync.WaitGroup
		begun, closed := make(chan struct{}, 4), make(chan struct{})
		for w := range 4 {
			group.Go(func() {
				for i := 0; ; i++ {
					x.Put(digest(i%50), 1)
					x.Facts(digest(w))
					x.Link("a", index.Link{Digest: digest(i % 50)})
					for range x.All() {
					}
					x.Links("a")
					if i == 5 {
						begun <- struct{}{}
					}
					select {
					case <-closed:
						return
					default:
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		for range 2 {
			group.Go(func() {
				if err := x.Close(within(t)); err != nil {
					t.Error(err)
				}
			})
		}
		closeIndex(t, x)
		close(closed)
		group.Wait()
	}
}
