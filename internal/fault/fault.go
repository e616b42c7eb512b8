// SPDX-License-Identifier: Apache-2.0

// Package fault lets a test kill a process at a named step. In ordinary use
// every Point does nothing.
package fault

import (
	"os"
	"sync"
	"syscall"
)

// Env names the variable that says at which point to die. A number after a
// colon says at which passage: "content.commit.synced:3".
const Env = "SLIPWAY_FAULT"

var armed = sync.OnceValue(func() *point { return parse(os.Getenv(Env)) })

type point struct {
	name string
	mu   sync.Mutex
	left int
}

// Point kills the process with SIGKILL if the environment asks for it.
func Point(name string) {
	p := armed()
	if p == nil || p.name != name {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left--; p.left == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func parse(env string) *point {
	if env == "" {
		return nil
	}
	p := &point{name: env, left: 1}
	for i := len(env) - 1; i > 0; i-- {
		if env[i] != ':' {
			continue
		}
		n := 0
		for _, c := range env[i+1:] {
			n = n*10 + int(c-'0')
		}
		p.name, p.left = env[:i], max(n, 1)
		break
	}
	return p
}
