// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"slipway/internal/version"
	"slipway/meta"
	"slipway/service"
)

// callMetrics counts gRPC calls under the names that dashboards of gRPC
// servers know. A nil one counts nothing.
type callMetrics struct {
	started, handled *prometheus.CounterVec
	seconds          *prometheus.HistogramVec // nil unless configured
}

// openCallMetrics counts only if somebody can read it.
func (d *Daemon) openCallMetrics(p *service.Plugin) error {
	if options[metricsOptions](d.config, serverType+".metrics").Address == "" {
		return nil
	}
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	d.registry = prometheus.NewRegistry()
	d.calls = &callMetrics{
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_started_total", Help: "Calls that began."}, labels),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "Calls that ended, by status."}, append(labels, "grpc_code")),
	}
	d.registry.MustRegister(d.calls.started, d.calls.handled, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if options[prometheusOptions](d.config, pluginURI(p)).GRPCHistogram {
		d.calls.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "How long calls took.", Buckets: prometheus.DefBuckets}, labels)
		d.registry.MustRegister(d.calls.seconds)
	}
	build := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "containerd_build_info_total", Help: "Which daemon this is."}, []string{"version", "revision"})
	build.WithLabelValues(version.Version, version.Revision).Inc()
	d.registry.MustRegister(build)
	return nil
}

// observeGC counts collections, if anybody reads that.
func (d *Daemon) observeGC() func(meta.GCStats, error) {
	if d.registry == nil {
		return nil
	}
	collections := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "containerd_gc_collections_total", Help: "Garbage collections, by how they ended."}, []string{"status"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "containerd_gc_gc_seconds", Help: "How long garbage collections took.", Buckets: prometheus.DefBuckets})
	d.registry.MustRegister(collections, seconds)
	return func(s meta.GCStats, err error) {
		if err != nil {
			collections.WithLabelValues("fail").Inc()
			return
		}
		collections.WithLabelValues("success").Inc()
		seconds.Observe(s.Took.Seconds())
	}
}

// begin counts a call; the returned function counts its end.
func (m *callMetrics) begin(kind, fullMethod string) func(error) {
	if m == nil {
		return func(error) {}
	}
	start := time.Now()
	svc, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	m.started.WithLabelValues(kind, svc, method).Inc()
	return func(err error) {
		m.handled.WithLabelValues(kind, svc, method, status.Code(err).String()).Inc()
		if m.seconds != nil {
			m.seconds.WithLabelValues(kind, svc, method).Observe(time.Since(start).Seconds())
		}
	}
}

// expect shows every method before its first call, with zero.
func (m *callMetrics) expect(servers map[string]grpc.ServiceInfo) {
	if m == nil {
		return
	}
	for name, svc := range servers {
		for _, method := range svc.Methods {
			kind := "unary"
			if method.IsClientStream || method.IsServerStream {
				kind = streamKind(&grpc.StreamServerInfo{IsClientStream: method.IsClientStream, IsServerStream: method.IsServerStream})
			}
			m.started.WithLabelValues(kind, name, method.Name)
			m.handled.WithLabelValues(kind, name, method.Name, "OK")
		}
	}
}

func (d *Daemon) metricsHandler() http.Handler {
	return promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{Registry: d.registry})
}
