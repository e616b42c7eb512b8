// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/rand"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/test/host"
	"slipway/test/smalldisk"
	"slipway/test/tree"
)

// A plug is a daemon on a disk that can be copied at any time, as the power
// leaves it when it fails: what the kernel had not written yet is not there.
type plug struct {
	*host.Daemon
	disk string            // the file of its file system
	refs []string          // of the images that are pulled and removed
	want map[string]string // the files of each

	mu   sync.Mutex
	here map[string]bool // images whose pull has ended, and that nobody removes
}

// TestPowerCuts copies the disk SLIPWAY_POWER_CUTS times (6) while images are
// pulled and removed, and looks at what a daemon makes of each copy.
func TestPowerCuts(t *testing.T) {
	cuts := 6
	if n, err := strconv.Atoi(os.Getenv("SLIPWAY_POWER_CUTS")); err == nil {
		cuts = n
	}
	p := newPlug(t)
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range 2 {
		work.Go(func() { p.pullAndRemove(t, p.refs[i*3:i*3+3], stop) })
	}
	found, partial := 0, 0
	for i := range cuts {
		time.Sleep(time.Duration(mathrand.IntN(300)) * time.Millisecond)
		t.Run(fmt.Sprint("cut ", i), func(t *testing.T) {
			n := p.cut(t)
			found += n
			if n < len(p.refs) {
				partial++
			}
		})
	}
	close(stop)
	work.Wait()
	t.Logf("%d cuts, %d with some images only; %d images were whole", cuts, partial, found)
	if found == 0 {
		t.Error("no copy had an image: nothing was shown")
	}
}

func newPlug(t *testing.T) *plug {
	t.Helper()
	host.Need(t, "mkfs.btrfs", "mkfs.ext4")
	host.NeedBuilt(t)
	copies := smalldisk.New(t, "btrfs", 8<<30) // its files are copied at once
	p := &plug{disk: smalldisk.Image(t, "ext4", copies, 1<<30), want: map[string]string{}, here: map[string]bool{}}
	dir := host.TempDir(t)
	smalldisk.Mount(t, "ext4", p.disk, dir)
	p.Daemon = host.Start(t, host.Options{Dir: dir})
	r := host.StartRegistry(t)
	base := noise(t, "base")
	for i := range 6 {
		name := fmt.Sprint("image", i)
		p.refs = append(p.refs, r.Push(t, host.Busybox(t, base, noise(t, name+"a"), noise(t, name+"b")), "library/"+name+":latest"))
	}
	for _, ref := range p.refs {
		p.pull(t, ref)
		p.want[ref] = files(t, p.Daemon, ref)
	}
	return p
}

// noise is a layer of files that cannot be packed.
func noise(t *testing.T, name string) []byte {
	t.Helper()
	entries := []host.Entry{{Name: name + "/", Mode: 0o755}}
	for i := range 20 {
		data := make([]byte, 30000)
		rand.Read(data)
		entries = append(entries, host.Entry{Name: fmt.Sprint(name, "/", i), Mode: 0o644, Content: data})
	}
	return host.Layer(t, entries...)
}

// files describes those of an image; only the time of its root is that of its
// unpacking.
func files(t testing.TB, d *host.Daemon, ref string) string {
	t.Helper()
	dir := host.TempDir(t)
	d.Ctr(t, "images", "mount", ref, dir)
	defer d.Ctr(t, "images", "unmount", "--rm", dir)
	list, err := tree.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ = strings.Cut(list, "\n")
	return list
}

func (p *plug) pull(t *testing.T, ref string) {
	t.Helper()
	p.Ctr(t, "images", "pull", "--plain-http", ref)
	p.mark(ref, true)
}

// mark says whether an image must be there after a cut.
func (p *plug) mark(ref string, here bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.here[ref] = here
}

func (p *plug) pullAndRemove(t *testing.T, refs []string, stop chan struct{}) {
	for {
		for _, ref := range refs {
			select {
			case <-stop:
				return
			default:
			}
			if mathrand.IntN(2) == 0 {
				p.mark(ref, false)
				p.Try(t, "images", "rm", "--sync", ref)
			}
			if r := p.Try(t, "images", "pull", "--plain-http", ref); r.Code != 0 {
				t.Errorf("pull %s: %s", ref, r.Stderr)
				return
			}
			p.mark(ref, true)
		}
	}
}

// cut copies the disk and requires that the images that were there are there,
// and that all are whole. It returns how many.
func (p *plug) cut(t *testing.T) int {
	dir := host.TempDir(t)
	file := filepath.Join(filepath.Dir(p.disk), "copy")
	p.mu.Lock()
	here := maps.Clone(p.here)
	p.mu.Unlock()
	clone(t, p.disk, file)
	t.Cleanup(func() { os.Remove(file) })
	smalldisk.Mount(t, "ext4", file, dir)
	for _, volatile := range []string{"state", "s"} { // as a boot finds them
		if err := os.RemoveAll(filepath.Join(dir, volatile)); err != nil {
			t.Fatal(err)
		}
	}
	d := host.Start(t, host.Options{Dir: dir})
	found := strings.Fields(d.Ctr(t, "images", "ls", "-q"))
	for _, ref := range p.refs {
		if here[ref] && !slices.Contains(found, ref) {
			t.Errorf("%s was pulled before the cut, and is lost", ref)
		}
	}
	for _, ref := range found {
		d.Ctr(t, "images", "fsck", ref)
		if files(t, d, ref) != p.want[ref] {
			t.Errorf("%s has other files than before the cut", ref)
		}
	}
	return len(found)
}

func clone(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		t.Fatal(err)
	}
}
