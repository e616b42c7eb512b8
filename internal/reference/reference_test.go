// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"strings"
	"testing"

	peer "github.com/distribution/reference"
)

const sum = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// names are of every form that the rules tell apart.
var names = []string{
	"", "/", ":", "@", "a", "busybox", "busybox:1", "busybox:latest", "team/app", "team/app:1.2-x_y", "docker.io/busybox", "docker.io/team/app",
	"docker.io/library/busybox:1", "index.docker.io/busybox", "index.docker.io/a/b:1", "docker.io/library/a/b", "localhost/app", "localhost:5000/app:1", "localhost",
	"reg.example/app", "reg.example:5000/team/app:1@" + sum, "app@" + sum, "app:1@" + sum, "app@sha256:12", "app@" + sum + "x", "app@md5:" + strings.Repeat("a", 32),
	"app@" + strings.ToUpper(sum), sum, sum[7:], "a" + sum[7:], "[::1]/app", "[::1]:80/app:t", "[fe80::1%25eth0]/app", "[]/app", "[::1]x/app", "[::1]:/app", "127.0.0.1:80/a/b/c",
	"reg.example:port/app", "reg.example:/app", "reg..example/app", ".example/app", "example./app", "-reg.example/app", "reg-.example/app", "Reg.Example/app", "REG/app", "Reg/app:x",
	"my_reg.local/app", "my_reg.local/app:1", "my__reg.x-y/app", "my_reg:80/app", "team/App", "Team/App", "team/app:UPPER", "App", "reg.example/App:1",
	"a.b/c", "a..b", "a__b", "a___b", "a._b", "a-b", "a---b", "a-_b", "_a", "a_", "a-", "-a", "a/b/", "a//b", "/a", "a/-b", "a/b-", "ä/b", "a:ä", "a b", "a:b c", "a:.x", "a:-x", "a:_x",
	"a:" + strings.Repeat("t", 128), "a:" + strings.Repeat("t", 129), "reg.example/" + strings.Repeat("p", 255), "reg.example/" + strings.Repeat("p", 256),
	"a:1:2", "a@" + sum + "@" + sum, "a:1@", "a@", "a:", "a:@" + sum, "reg.example/a:1/b", "reg.example:1:2/a", "a\n", "a:1\n",
}

func TestAgreesWithTheLibrary(t *testing.T) {
	for _, name := range names {
		compare(t, name)
	}
}

func FuzzAgreesWithTheLibrary(f *testing.F) {
	for _, name := range names {
		f.Add(name)
	}
	f.Fuzz(compare)
}

func compare(t *testing.T, name string) {
	want, werr := peer.ParseNormalizedNamed(name)
	got, err := Parse(name)
	if (err == nil) != (werr == nil) {
		t.Fatalf("Parse(%q) = %+v, %v; the library %v, %v", name, got, err, want, werr)
	}
	_, werr = peer.ParseAnyReference(name)
	if cerr := Check(name); (cerr == nil) != (werr == nil) {
		t.Errorf("Check(%q) = %v; the library %v", name, cerr, werr)
	}
	if err != nil {
		return
	}
	single, err := peer.ParseDockerRef(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{got.Domain, peer.Domain(want)}, {got.Path, peer.Path(want)}, {got.Name(), want.Name()}, {got.String(), want.String()},
		{got.Familiar(), peer.FamiliarString(want)}, {got.Single().String(), single.String()},
	} {
		if c[0] != c[1] {
			t.Errorf("%q: %q, the library %q", name, c[0], c[1])
		}
	}
}
