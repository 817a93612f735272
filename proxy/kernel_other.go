//go:build !linux

package proxy

const kernelTimeouts = false
