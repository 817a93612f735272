// Package config reads the configuration file.
//
// The invariant: a *Config that this package hands out is complete and valid.
// Every key has a value, every value is inside its bounds, and no two keys
// contradict each other; whoever holds one checks nothing again. A file that
// breaks a rule yields no Config at all, but an error with one line for every
// mistake: file, line, column, key, what is wrong and what would be right.
//
// The types in config.go and upstream.go are the manual: a field's comment says
// what it means, its unit and its default, and its tags say what it may hold:
//
//	yaml     the key in the file
//	range    the smallest and the largest value allowed
//	oneof    the words allowed
//	later    words that a later version will know
//	restart  a changed value needs a restart, a reload does not apply it
//
// A Config is not changed after it was made (Resolve apart) and may then be
// read by many goroutines. Secrets are held in Secret and Proxy, which print as
// a placeholder wherever they are printed; errors never quote a secret or the
// value of an environment variable.
package config
