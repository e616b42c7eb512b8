// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"maps"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/content"
)

// Each case labels a blob, or what the blob is to live by; a name in a label
// stands for the digest of what is called so.
func TestEveryLabelThatSteersCollections(t *testing.T) {
	stamp := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	target := put(t, open(t).Content(scope), "kept", nil).String() // what it is in every database
	const (
		ref, bref, cond = "containerd.io/gc.ref.", "containerd.io/gc.bref.", "containerd.io/gc.cond.snapshot"
	)
	for name, c := range map[string]struct {
		on    string // the labelled object: blob itself, or a root
		label string
		value string
		used  time.Duration // since the snapshot was used
		live  bool
	}{
		"nothing":                        {"blob", "x", "y", 0, false},
		"root":                           {"blob", "containerd.io/gc.root", "1", 0, true},
		"expires later":                  {"blob", "containerd.io/gc.expire", stamp(time.Hour), 0, true},
		"expired":                        {"blob", "containerd.io/gc.expire", stamp(-time.Hour), 0, false},
		"expires, malformed":             {"blob", "containerd.io/gc.expire", "soon", 0, false},
		"content of an image":            {"image", ref + "content", target, 0, true},
		"content of an image, dot":       {"image", ref + "content.l.0", target, 0, true},
		"content of an image, slash":     {"image", ref + "content/x", target, 0, true},
		"no family":                      {"image", ref + "contents", target, 0, false},
		"content of a container":         {"container", ref + "content.x", target, 0, true},
		"content of a snapshot":          {"snapshot", ref + "content.x", target, 0, true},
		"content of a sandbox":           {"sandbox", ref + "content.x", target, 0, true},
		"content of a referrer":          {"image", ref + "content.referrer.sha256.0123456789ab", target, 0, true},
		"lives by a container":           {"blob", bref + "container", "container", 0, true},
		"lives by an image":              {"blob", bref + "image.x", "image", 0, true},
		"lives by a snapshot":            {"blob", bref + "snapshot.native", "base", 0, true},
		"lives by a snapshot, slash":     {"blob", bref + "snapshot.native/x", "base", 0, true},
		"lives by what is not there":     {"blob", bref + "image", "absent", 0, false},
		"lives by an unknown kind":       {"blob", bref + "volume", "base", 0, false},
		"used lately":                    {"blob", cond + ".native", "usedat<1h|base", time.Minute, true},
		"used lately, with a suffix":     {"blob", cond + ".native/x", "usedat<1h|base", time.Minute, true},
		"used long ago":                  {"blob", cond + ".native", "usedat<1h|base", 2 * time.Hour, false},
		"not used for long":              {"blob", cond + ".native", "usedat>1h|base", 2 * time.Hour, true},
		"one of two conditions":          {"blob", cond + ".native", "usedat>9h,usedat<1h|base", time.Minute, true},
		"an unknown condition":           {"blob", cond + ".native", "size<1|base", time.Minute, false},
		"an operator without a meaning":  {"blob", cond + ".native", "usedat<=1h|base", time.Minute, false},
		"a condition without a snapshot": {"blob", cond + ".native", "usedat<1h", time.Minute, false},
		"a snapshot that is not there":   {"blob", cond + ".native", "usedat<1h|absent", time.Minute, false},
		"a condition of a container":     {"container", cond + ".native", "usedat<1h|base", time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			db, ctx := open(t), t.Context()
			labels := map[string]map[string]string{c.on: {c.label: c.value}}
			kept := put(t, db.Content(scope), "kept", labels["blob"])
			other := put(t, db.Content(scope), "other", nil)
			if _, err := db.Images(scope).Create(ctx, image("image", other, labels["image"])); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Containers(scope).Create(ctx, Container{ID: "container", Spec: &anypb.Any{TypeUrl: "t"}, Runtime: Runtime{Name: "r"}, Labels: labels["container"]}); err != nil {
				t.Fatal(err)
			}
			if _, err := db.Sandboxes(scope).Create(ctx, Sandbox{ID: "sandbox", Runtime: Runtime{Name: "r"}, Sandboxer: "shim", Labels: labels["sandbox"]}); err != nil {
				t.Fatal(err)
			}
			base := map[string]string{"containerd.io/gc.root": "1", "containerd.io/gc.cond.value-usedat": stamp(-c.used)}
			for k, v := range labels["snapshot"] {
				base[k] = v
			}
			if _, err := snapshotter(t, db, scope).Prepare(ctx, "base", "", base); err != nil {
				t.Fatal(err)
			}
			collect(t, db)
			if _, err := db.Content(scope).Info(ctx, kept); c.live != (err == nil) || !c.live && !errdefs.IsNotFound(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzLabels labels everything by which collections find their way. They take
// nothing that an image refers to, whatever the labels are.
func FuzzLabels(f *testing.F) {
	for _, k := range []string{"containerd.io/gc.ref.content", "containerd.io/gc.ref.snapshot.native", "containerd.io/gc.bref.image", "containerd.io/gc.cond.snapshot.native", "containerd.io/gc.expire"} {
		f.Add(k, "image")
		f.Add(k+"/", "usedat<1h|a/b")
	}
	f.Add("\xe9", "0")
	f.Fuzz(func(t *testing.T, key, value string) {
		if len(value) > 4000 {
			return // it does not fit the longest key below
		}
		db, ctx := open(t), t.Context()
		labels := map[string]string{key: value}
		kept := put(t, db.Content(scope), "kept", nil)
		if _, err := db.Content(scope).Update(ctx, content.Info{Digest: kept, Labels: labels}); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		if _, err := db.Images(scope).Create(ctx, image("plain", kept, nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Images(scope).Create(ctx, image("image", kept, labels)); err != nil {
			t.Fatal(err)
		}
		labels = maps.Clone(labels)
		labels["containerd.io/gc.cond.value-usedat"] = value
		if _, err := snapshotter(t, db, scope).Prepare(ctx, "base", "", labels); err != nil {
			t.Fatal(err)
		}
		collect(t, db)
		if _, err := db.Content(scope).Info(ctx, kept); err != nil {
			t.Error(err)
		}
	})
}
