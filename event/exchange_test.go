// SPDX-License-Identifier: Apache-2.0

package event

import (
	"context"
	"fmt"
	"sync"
	"testing"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
)

func publish(t *testing.T, x *Exchange, topic, id string) {
	t.Helper()
	if err := x.Publish(t.Context(), "default", topic, &eventtypes.TaskStart{ContainerID: id}); err != nil {
		t.Fatal(err)
	}
}

func TestSubscribersGetWhatTheyAskedForInOrder(t *testing.T) {
	x := New()
	all, _ := x.Subscribe(t.Context())
	some, _ := x.Subscribe(t.Context(), `topic=="/tasks/start",event.container_id==b`, "namespace==other")
	for _, id := range []string{"a", "b", "c"} {
		publish(t, x, "/tasks/start", id)
	}
	for _, want := range []string{"a", "b", "c"} {
		e := <-all
		if got, _ := e.field([]string{"event", "container_id"}); got != want {
			t.Errorf("got the event of %q, want %q", got, want)
		}
	}
	if got, _ := (<-some).field([]string{"event", "container_id"}); got != "b" {
		t.Errorf("filtered subscription got %q, want b", got)
	}
}

func TestPublishDoesNotWaitForASubscriber(t *testing.T) {
	x := New()
	ch, _ := x.Subscribe(t.Context())
	for i := range 10000 {
		publish(t, x, "/tasks/start", fmt.Sprint("c", i))
	}
	for i := range 10000 {
		if got, _ := (<-ch).field([]string{"event", "container_id"}); got != fmt.Sprint("c", i) {
			t.Fatalf("event %d is of %s", i, got)
		}
	}
}

func TestSubscriptionEndsWithItsContext(t *testing.T) {
	x := New()
	ctx, cancel := context.WithCancel(t.Context())
	_, errs := x.Subscribe(ctx)
	cancel()
	if err := <-errs; err != context.Canceled {
		t.Errorf("ended with %v", err)
	}
	if _, errs := x.Subscribe(t.Context(), "=="); !errdefs.IsInvalidArgument(<-errs) {
		t.Error("a bad filter is accepted")
	}
}

func TestBadEnvelopesAreRejected(t *testing.T) {
	x := New()
	for _, topic := range []string{"", "/", "tasks", "/tasks/", "/tasks//x", "/ta sks"} {
		if err := x.Publish(t.Context(), "default", topic, &eventtypes.TaskStart{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("topic %q: %v", topic, err)
		}
	}
	if err := x.Publish(t.Context(), "", "/a", &eventtypes.TaskStart{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("no namespace: %v", err)
	}
	if err := x.Forward(t.Context(), Envelope{Namespace: "a", Topic: "/a"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no timestamp: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	x := New()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			ch, errs := x.Subscribe(ctx)
			publish(t, x, "/a", "x")
			<-ch
			cancel()
			for range errs {
				break
			}
		})
	}
	wg.Wait()
}
