// Package registrytest is a container registry for tests: it serves the pull
// side of the OCI distribution specification from memory, and fails on demand.
//
// The invariant: what a test sees counted is what went over the sockets, and
// nothing fails unless a [Fault] says so. A fault is plain data, so a table of
// them is a table of tests.
//
//	reg := registrytest.Start(t, registrytest.Options{Storage: true})
//	img := reg.AddImage("library/alpine", "3.22", layer)
//	reg.Break(registrytest.Fault{
//		Match:    registrytest.Match{Kind: registrytest.KindStorage},
//		CutShare: 0.6,
//		Times:    1,
//	})
//	… pull …
//	if n := reg.BodyBytes(registrytest.Match{Kind: registrytest.KindStorage}); n != want { … }
//
// With Options.Storage, blobs are answered the way the large registries do: a
// 307 to a signed address on a second port, which refuses any request that
// carries an Authorization header and, with Options.AddressLife, expires.
//
// Every method may be called from any goroutine, at any time between [New] and
// [Server.Close].
package registrytest
