// Package e2e holds no code, only the tests that run the real binary between
// real clients and a real registry.
//
// The invariant: what a client has in the end is compared with what was pushed,
// and what crossed the upstream link is counted on that link, by a proxy that
// knows nothing of the daemon. Nothing is taken on the daemon's word.
//
// The tests run with ENTREPOT_E2E=1. What this machine can't run is skipped with
// the reason; with ENTREPOT_E2E_STRICT=1, as in CI, such a skip is a failure.
package e2e
