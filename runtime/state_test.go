// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzLoadRecord(f *testing.F) {
	f.Add([]byte(`{"id":"x","init_process_pid":1,"init_process_start":2,"config":{"labels":["bundle=/b","k=v"],"cgroups":{"name":"x","Systemd":true}}}`))
	f.Add([]byte(`{"config":{"Hooks":{"poststop":[{"path":"/bin/true","timeout":1000000000}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := loadRecord(dir)
		if err != nil {
			return
		}
		r.hooks("poststop")
		r.annotations()
		r.label("bundle")
		if err := r.save(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := loadRecord(dir); err != nil {
			t.Errorf("what was saved cannot be read: %v", err)
		}
	})
}
