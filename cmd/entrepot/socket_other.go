//go:build !linux

package main

import (
	"net"
	"time"
)

// setUserTimeout has no counterpart here: stalled clients are left to TCP's own timers.
func setUserTimeout(*net.TCPConn, time.Duration) {}
