// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
)

func digestOfText(s string) string { return digest.FromString(s).String() }

// writing is a session on an ingest.
type writing struct {
	t      *testing.T
	stream api.Content_WriteClient
}

func open(t *testing.T, c api.ContentClient, ctx context.Context) writing {
	t.Helper()
	s, err := c.Write(ctx)
	fatal(t, err)
	return writing{t, s}
}

// say sends a message and returns the answer.
func (w writing) say(r *api.WriteContentRequest) (*api.WriteContentResponse, error) {
	w.t.Helper()
	if err := w.stream.Send(r); err != nil && err != io.EOF {
		w.t.Fatal(err)
	}
	return w.stream.Recv()
}

// must is say that succeeds.
func (w writing) must(r *api.WriteContentRequest) *api.WriteContentResponse {
	w.t.Helper()
	resp, err := w.say(r)
	fatal(w.t, err)
	return resp
}

// end closes the session and waits for the server to have seen it.
func (w writing) end() *api.WriteContentResponse {
	w.t.Helper()
	fatal(w.t, w.stream.CloseSend())
	var last *api.WriteContentResponse
	for {
		r, err := w.stream.Recv()
		if err == io.EOF {
			return last
		}
		fatal(w.t, err)
		last = r
	}
}

// put stores a blob.
func put(t *testing.T, c api.ContentClient, ctx context.Context, ref, text string) {
	t.Helper()
	w := open(t, c, ctx)
	w.must(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Ref: ref, Data: []byte(text), Total: int64(len(text)), Expected: digestOfText(text)})
	w.end()
}

func contentClient(t *testing.T) (*world, api.ContentClient) {
	w := newWorld(t, stores)
	return w, api.NewContentClient(w.conn)
}

func TestWriteResumesAndCommits(t *testing.T) {
	_, c := contentClient(t)
	w := open(t, c, in(t, "a"))
	if r := w.must(&api.WriteContentRequest{Ref: "r", Total: 10}); r.Offset != 0 || r.Total != 10 || r.Digest != digestOfText("") {
		t.Errorf("status of a new ingest: %v", r)
	}
	if r := w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Data: []byte("hello")}); r.Offset != 5 || r.Digest != digestOfText("hello") {
		t.Errorf("after a write: %v", r)
	}
	if last := w.end(); last.Action != api.WriteAction_WRITE || last.Offset != 5 {
		t.Errorf("the last answer was not repeated: %v", last)
	}
	w = open(t, c, in(t, "a"))
	if r := w.must(&api.WriteContentRequest{Ref: "r"}); r.Offset != 5 || r.Digest != digestOfText("hello") {
		t.Errorf("status of a resumed ingest: %v", r)
	}
	r := w.must(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Offset: 5, Data: []byte("world"), Labels: map[string]string{"k": "v"}})
	if r.Offset != 10 || r.Digest != digestOfText("helloworld") {
		t.Errorf("commit: %v", r)
	}
	if last := w.end(); last.GetAction() != api.WriteAction_COMMIT {
		t.Errorf("commit was answered once: %v", last)
	}
	info, err := c.Info(in(t, "a"), &api.InfoRequest{Digest: r.Digest})
	fatal(t, err)
	if info.Info.Size != 10 || info.Info.Labels["k"] != "v" {
		t.Errorf("info %v", info)
	}
	_, err = c.Status(in(t, "a"), &api.StatusRequest{Ref: "r"})
	wantCode(t, "status after commit", err, codes.NotFound)
}

func TestWriteBeginsAgainAtOffsetZero(t *testing.T) {
	_, c := contentClient(t)
	w := open(t, c, in(t, "a"))
	w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Ref: "r", Data: []byte("wrong")})
	if r := w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Data: []byte("right!")}); r.Offset != 6 || r.Digest != digestOfText("right!") {
		t.Errorf("after a new beginning: %v", r)
	}
	w.end()
}

func TestWriteRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		first *api.WriteContentRequest
		then  *api.WriteContentRequest // nil if the first is refused
		want  codes.Code
		text  string
	}{
		{"no ref", &api.WriteContentRequest{}, nil, codes.InvalidArgument, ""},
		{"bad digest", &api.WriteContentRequest{Ref: "r", Expected: "x"}, nil, codes.InvalidArgument, ""},
		{"negative total", &api.WriteContentRequest{Ref: "r", Total: -1}, nil, codes.InvalidArgument, ""},
		{"exists", &api.WriteContentRequest{Ref: "r", Expected: digestOfText("there")}, nil, codes.AlreadyExists, "content " + digestOfText("there") + ": already exists"},
		{"exists by now", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Expected: digestOfText("there")}, codes.AlreadyExists, ""},
		{"gap", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: api.WriteAction_WRITE, Offset: 3, Data: []byte("x")}, codes.OutOfRange, ""},
		{"negative offset", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: api.WriteAction_WRITE, Offset: -3, Data: []byte("x")}, codes.OutOfRange, ""},
		{"unknown action", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: 9}, codes.InvalidArgument, ""},
		{"wrong size", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: api.WriteAction_COMMIT, Data: []byte("x"), Total: 2}, codes.FailedPrecondition, ""},
		{
			"wrong digest", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: api.WriteAction_COMMIT, Data: []byte("x"), Expected: digestOfText("y")},
			codes.FailedPrecondition, "unexpected commit digest " + digestOfText("x") + ", expected " + digestOfText("y") + ": failed precondition",
		},
		{"long label", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: api.WriteAction_COMMIT, Data: []byte("x"), Labels: longLabel}, codes.InvalidArgument, ""},
		{"commit of what exists", &api.WriteContentRequest{Ref: "r"}, &api.WriteContentRequest{Action: api.WriteAction_COMMIT, Data: []byte("there")}, codes.AlreadyExists, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, client := contentClient(t)
			put(t, client, in(t, "a"), "there", "there")
			w := open(t, client, in(t, "a"))
			_, err := w.say(c.first)
			if c.then != nil {
				fatal(t, err)
				_, err = w.say(c.then)
			}
			wantCode(t, c.name, err, c.want)
			if c.text != "" {
				wantText(t, err, c.text)
			}
		})
	}
}

func TestABlobThatCameElsewhereEndsTheIngest(t *testing.T) {
	_, c := contentClient(t)
	w := open(t, c, in(t, "a"))
	w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Ref: "r", Data: []byte("th")})
	put(t, c, in(t, "a"), "other", "there")
	_, err := w.say(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Offset: 2, Data: []byte("ere"), Expected: digestOfText("there")})
	wantCode(t, "write", err, codes.AlreadyExists)
	_, err = c.Status(in(t, "a"), &api.StatusRequest{Ref: "r"})
	wantCode(t, "status of the dropped ingest", err, codes.NotFound)
}

func TestOneWriterHoldsARef(t *testing.T) {
	_, c := contentClient(t)
	w := open(t, c, in(t, "a"))
	w.must(&api.WriteContentRequest{Ref: "r"})
	_, err := open(t, c, in(t, "a")).say(&api.WriteContentRequest{Ref: "r"})
	wantCode(t, "second writer", err, codes.Unavailable)
	if !strings.Contains(err.Error(), "ref r locked for ") || !strings.HasSuffix(err.Error(), ": unavailable") {
		t.Errorf("second writer: %v", err)
	}
	open(t, c, in(t, "b")).must(&api.WriteContentRequest{Ref: "r"}) // another namespace, another ref
}

func TestAnIngestIsAbortedUnderItsWriter(t *testing.T) {
	_, c := contentClient(t)
	w := open(t, c, in(t, "a"))
	w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Ref: "r", Data: []byte("x")})
	_, err := c.Abort(in(t, "a"), &api.AbortRequest{Ref: "r"})
	fatal(t, err)
	_, err = c.Status(in(t, "a"), &api.StatusRequest{Ref: "r"})
	wantCode(t, "status", err, codes.NotFound)
	_, err = w.say(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Offset: 1})
	wantCode(t, "commit", err, codes.NotFound)
	_, err = c.Info(in(t, "a"), &api.InfoRequest{Digest: digestOfText("x")})
	wantCode(t, "info", err, codes.NotFound)
}

func TestABlobOfAnotherNamespaceIsLinked(t *testing.T) {
	_, c := contentClient(t)
	put(t, c, in(t, "a"), "r", "shared")
	w := open(t, c, in(t, "b"))
	r := w.must(&api.WriteContentRequest{Ref: "r", Expected: digestOfText("shared"), Total: 6})
	if r.Offset != 6 {
		t.Errorf("offset %d of a blob that is there, want 6", r.Offset)
	}
	w.must(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Offset: 6})
	w.end()
	_, err := c.Info(in(t, "b"), &api.InfoRequest{Digest: digestOfText("shared")})
	fatal(t, err)
}

func TestABlobOfAnotherNamespaceMayBeSentAgain(t *testing.T) {
	_, c := contentClient(t)
	put(t, c, in(t, "a"), "r", "shared")
	w := open(t, c, in(t, "b"))
	w.must(&api.WriteContentRequest{Ref: "r", Expected: digestOfText("shared"), Total: 6})
	if r := w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Data: []byte("sha")}); r.Offset != 3 {
		t.Errorf("offset %d", r.Offset)
	}
	w.must(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Offset: 3, Data: []byte("red")})
	w.end()
	_, err := c.Info(in(t, "b"), &api.InfoRequest{Digest: digestOfText("shared")})
	fatal(t, err)
}

func TestACommittedBlobIsUnderTheLease(t *testing.T) {
	w, c := contentClient(t)
	leases := leasesapi.NewLeasesClient(w.conn)
	l, err := leases.Create(in(t, "a"), &leasesapi.CreateRequest{})
	fatal(t, err)
	put(t, c, in(t, "a"), "r", "there")
	_, err = open(t, c, leased(in(t, "a"), l.Lease.ID)).say(&api.WriteContentRequest{Ref: "r", Expected: digestOfText("there")})
	wantCode(t, "write", err, codes.AlreadyExists)
	got, err := leases.ListResources(in(t, "a"), &leasesapi.ListResourcesRequest{ID: l.Lease.ID})
	fatal(t, err)
	if len(got.Resources) != 1 || got.Resources[0].Type != "content" || got.Resources[0].ID != digestOfText("there") {
		t.Errorf("resources %v", got.Resources)
	}
	_, err = open(t, c, leased(in(t, "a"), "none")).say(&api.WriteContentRequest{Ref: "r2"})
	wantText(t, err, "lease does not exist: not found")
}

func TestReadSendsTheRangeWithRelativeOffsets(t *testing.T) {
	_, c := contentClient(t)
	text := strings.Repeat("0123456789", 300<<10) // three messages
	w := open(t, c, in(t, "a"))
	for at := 0; at < len(text); at += 1 << 20 {
		w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Ref: "r", Offset: int64(at), Data: []byte(text[at:min(len(text), at+1<<20)])})
	}
	d := w.must(&api.WriteContentRequest{Action: api.WriteAction_COMMIT, Offset: int64(len(text))}).Digest
	for _, r := range []struct {
		offset, size int64
		want         string
	}{
		{0, 0, text}, {0, 10, text[:10]}, {5, 0, text[5:]}, {5, 7, text[5:12]}, {-3, 4, text[:4]}, {2, 1 << 40, text[2:]}, {int64(len(text)), 0, ""}, {1, -1, text[1:]},
	} {
		s, err := c.Read(in(t, "a"), &api.ReadContentRequest{Digest: d, Offset: r.offset, Size: r.size})
		fatal(t, err)
		var got bytes.Buffer
		for {
			m, err := s.Recv()
			if err == io.EOF {
				break
			}
			fatal(t, err)
			if m.Offset != int64(got.Len()) || len(m.Data) > 1<<20 {
				t.Errorf("message of %d bytes at %d, want it at %d", len(m.Data), m.Offset, got.Len())
			}
			got.Write(m.Data)
		}
		if got.String() != r.want {
			t.Errorf("read %d from %d: got %d bytes, want %d", r.size, r.offset, got.Len(), len(r.want))
		}
	}
}

func TestContentListIsPaged(t *testing.T) {
	_, c := contentClient(t)
	for i := range 205 {
		put(t, c, in(t, "a"), fmt.Sprint(i), fmt.Sprint("blob ", i))
	}
	s, err := c.List(in(t, "a"), &api.ListContentRequest{})
	fatal(t, err)
	var sizes []int
	last := ""
	for {
		m, err := s.Recv()
		if err == io.EOF {
			break
		}
		fatal(t, err)
		sizes = append(sizes, len(m.Info))
		for _, i := range m.Info {
			if i.Digest <= last {
				t.Errorf("%s after %s", i.Digest, last)
			}
			last = i.Digest
		}
	}
	if fmt.Sprint(sizes) != "[100 100 5]" {
		t.Errorf("pages of %v", sizes)
	}
}

func TestContentUpdateMasks(t *testing.T) {
	_, c := contentClient(t)
	put(t, c, in(t, "a"), "r", "x")
	for _, step := range []struct {
		labels map[string]string
		paths  []string
		want   string
	}{
		{map[string]string{"a": "1", "b.c": "2"}, nil, "map[a:1 b.c:2]"},
		{map[string]string{"b.c": "3", "z": "9"}, []string{"labels.b.c"}, "map[a:1 b.c:3]"},
		{map[string]string{"a": ""}, []string{"labels.a"}, "map[b.c:3]"},
		{nil, []string{"labels.b.c"}, "map[]"},
		{map[string]string{"q": "1"}, []string{"labels"}, "map[q:1]"},
		{map[string]string{"r": "1"}, nil, "map[r:1]"},
	} {
		r, err := c.Update(in(t, "a"), &api.UpdateRequest{Info: &api.Info{Digest: digestOfText("x"), Labels: step.labels}, UpdateMask: mask(step.paths...)})
		fatal(t, err)
		info, err := c.Info(in(t, "a"), &api.InfoRequest{Digest: digestOfText("x")})
		fatal(t, err)
		if got := fmt.Sprint(info.Info.Labels); got != step.want || fmt.Sprint(r.Info.Labels) != step.want {
			t.Errorf("labels %v by %v: got %s, answered %v, want %s", step.labels, step.paths, got, r.Info.Labels, step.want)
		}
	}
}

func TestListStatusesFiltersByRef(t *testing.T) {
	_, c := contentClient(t)
	for _, ref := range []string{"x-1", "x-2", "y"} {
		w := open(t, c, in(t, "a"))
		w.must(&api.WriteContentRequest{Action: api.WriteAction_WRITE, Ref: ref, Data: []byte(ref)})
		w.end()
	}
	r, err := c.ListStatuses(in(t, "a"), &api.ListStatusesRequest{Filters: []string{"ref~=^x"}})
	fatal(t, err)
	if len(r.Statuses) != 2 || r.Statuses[0].Ref != "x-1" || r.Statuses[0].Offset != 3 {
		t.Errorf("statuses %v", r.Statuses)
	}
	r, err = c.ListStatuses(in(t, "b"), &api.ListStatusesRequest{})
	fatal(t, err)
	if len(r.Statuses) != 0 {
		t.Errorf("another namespace sees %v", r.Statuses)
	}
}
