// Package upstream is the client of one registry: it asks for what is pulled, signs in
// where it is asked to, and turns every failure into a *fault.Error.
//
// Its invariants:
//
//   - A credential goes to the endpoint's own host and port, or to the token service that the
//     endpoint itself names; never along a redirect to another host or port.
//   - A connection that began as https is never followed to http.
//   - The address that is connected to is checked, not the name: metadata services never,
//     loopback and private networks only where the upstream is there itself (guard.go).
//   - Manifests that are handed out match their digest. Blobs are verified by whoever
//     stores them.
//   - Nothing waits without a bound: connecting, headers, each read of a body, a place in the
//     queue, a token, and all tries together.
//   - No error, event or log line holds a credential, a query or a signed address.
//
// A request passes these stations, a file each: retry.go (again, or at the next endpoint),
// exchange.go (signs in and repeats once), redirect.go (follows by hand), transport.go and
// dial.go (the connections), body.go (the stall timer and the books). places.go remembers to
// which address a blob's redirect led.
package upstream
