// Package authn says who we are upstream.
//
// Its invariant: a secret leaves this package only as a field of the AuthConfig that a client of
// the registry asked for; never in an error, a log line or a printed value.
//
// All kinds of credentials have one method,
//
//	Authorization(ctx, host, repository) (authn.AuthConfig, error)
//
// in which host is the registry's host[:port], repository the name without it, and the zero
// AuthConfig means anonymous. They may be used by many goroutines at once, are asked before
// each request, and cache what is slow to get.
package authn
