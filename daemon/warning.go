// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/service"
)

// deprecated are sections of the configuration that will go away, by what
// clients call the use of them.
var deprecated = map[string]string{
	"io.containerd.tracing.processor.v1.otlp": "io.containerd.deprecation/tracing-processor-config",
	"io.containerd.internal.v1.tracing":       "io.containerd.deprecation/tracing-service-config",
}

func (d *Daemon) openWarnings(*service.Plugin) error {
	for uri, id := range deprecated {
		if section := d.config.Plugins[uri]; section != nil && !reflect.ValueOf(section).Elem().IsZero() {
			d.warnings.add(id, "the configuration of "+uri+" has no effect: "+noTraces)
		}
	}
	return nil
}

// warnings remembers the deprecated things that were used since the start.
type warnings struct {
	mu   sync.Mutex
	seen map[string]service.Deprecation
}

// add notes a use, now.
func (w *warnings) add(id, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]service.Deprecation{}
	}
	w.seen[id] = service.Deprecation{ID: id, Message: message, LastOccurrence: time.Now()}
}

func (w *warnings) list() []service.Deprecation {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]service.Deprecation, 0, len(w.seen))
	for _, d := range w.seen {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b service.Deprecation) int { return strings.Compare(a.ID, b.ID) })
	return all
}
