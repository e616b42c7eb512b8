// SPDX-License-Identifier: Apache-2.0

//go:build !embedinit

package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

// initProgram builds package runtime/init from the source that this package
// was built from. It is for tests: programs that are to be used are built with
// the tag embedinit.
var initProgram = sync.OnceValues(func() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", fmt.Errorf("no init program: this program was built without the tag embedinit")
	}
	dir, err := os.MkdirTemp("", "init")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./init")
	cmd.Dir = filepath.Dir(file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the init program: %w: %s", err, msg)
	}
	data, err := os.ReadFile(out)
	return string(data), err
})

// forgetProgram does nothing: the program is in memory of its own.
func forgetProgram() {}
