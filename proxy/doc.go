// Package proxy is the registry API that clients see: it turns a request into
// an upstream, a repository and a reference, answers from the store, and asks
// the upstream for what is not there.
//
// The invariant: nothing of one repository is served through another. Content
// is answered only where the store has a link from the repository to the
// digest, or the upstream itself has just said yes. And what a client sent is
// never copied to an upstream, nor the other way: requests and answers are built here.
//
// One function (Parse) says what a request means and opens no connection; one
// (answerFor) says what a failure looks like to a client.
//
// The API is that of the OCI distribution specification 1.1, the pull side of it.
package proxy
