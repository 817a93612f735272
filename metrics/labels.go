package metrics

import (
	"sync"
	"unicode/utf8"
)

// Label values that stand for others.
const (
	valueOther = "other" // not in the fixed list, or one upstream too many
	valueNone  = "none"  // no upstream: the request was refused before it was routed
	resultNone = "NONE"  // the cache had no part in the answer
)

// maxUpstreams bounds the label upstream over the life of the process: reloads
// may bring names, and what was counted under old ones stays.
const maxUpstreams = 256

// maxName is the longest name that an upstream is shown by; DNS allows 253 bytes.
const maxName = 255

// kindOf: what a request is about.
func kindOf(kind string) string {
	switch kind {
	case "blob", "manifest", "ping", "referrers", "tags", "token":
		return kind
	}
	return valueOther
}

// resultOf: the value of X-Cache.
func resultOf(result string) string {
	switch result {
	case "HIT", "FILL", "MISS", "STALE", "REVALIDATED":
		return result
	}
	return resultNone
}

// outcomeOf: ok, or the kind of an upstream's failure as internal/fault names
// it, or canceled when our side ended it.
func outcomeOf(outcome string) string {
	switch outcome {
	case "ok", "canceled",
		"unavailable", "not_found", "denied", "refused", "throttled", "damaged", "unsupported", "busy":
		return outcome
	}
	return valueOther
}

// causeOf: why a tag was answered without the upstream's word.
func causeOf(cause string) string {
	switch cause {
	case "slow":
		return cause
	case "ok", "canceled":
		return valueOther
	}
	return outcomeOf(cause)
}

// classOf is the class of an HTTP status; 0 is an answer that never began.
func classOf(status int) string {
	switch status / 100 {
	case 1:
		return "1xx"
	case 2:
		return "2xx"
	case 3:
		return "3xx"
	case 4:
		return "4xx"
	case 5:
		return "5xx"
	}
	return valueOther
}

// names is the bounded set of upstreams that have been seen.
type names struct {
	mu   sync.Mutex // guards seen
	seen map[string]struct{}
}

// of returns the label value for an upstream, always one that Prometheus takes.
func (n *names) of(upstream string) string {
	switch {
	case upstream == "":
		return valueNone
	case len(upstream) > maxName, !utf8.ValidString(upstream):
		return valueOther
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.seen[upstream]; ok {
		return upstream
	}
	if len(n.seen) >= maxUpstreams {
		return valueOther
	}
	n.seen[upstream] = struct{}{}
	return upstream
}

// A table remembers the series of label sets, so that the hot path looks one up
// under a struct key instead of building and hashing a slice of labels.
type table[K comparable, V any] struct {
	mu sync.RWMutex // guards m
	m  map[K]V
}

func (t *table[K, V]) get(k K) (V, bool) {
	t.mu.RLock()
	v, ok := t.m[k]
	t.mu.RUnlock()
	return v, ok
}

// resolve returns what k has, and makes it if it has none. Only bounded keys
// may come here.
func (t *table[K, V]) resolve(k K, make func() V) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.m[k]; ok {
		return v
	}
	v := make()
	t.m[k] = v
	return v
}
