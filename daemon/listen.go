// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"slipway/internal/bytestream"
	"slipway/service"
)

// A server answers on one address. serve returns nil after stop.
type server struct {
	net.Listener
	serve func() error
	stop  func()
}

// end also removes the socket of a server that never served.
func (s server) end() {
	s.stop()
	s.Close() // stop closed that of a server that did
}

// listenUnix makes a socket that uid and gid may use. One that a dead daemon
// left is replaced, one that somebody answers on is not.
func listenUnix(path string, uid, gid int) (net.Listener, error) {
	if path == "" {
		return nil, fmt.Errorf("socket address is empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	switch c, err := net.DialTimeout("unix", path, time.Second); {
	case err == nil:
		c.Close()
		return nil, fmt.Errorf("socket %s: another process serves it: %w", path, syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != os.ModeSocket {
			return nil, errors.Join(fmt.Errorf("socket %s: a file is there: %w", path, errdefs.ErrAlreadyExists), err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("stale socket %s: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := errors.Join(os.Chmod(path, 0o660), os.Chown(path, uid, gid)); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

func (d *Daemon) openGRPC(p *service.Plugin) error {
	o := options[grpcOptions](d.config, pluginURI(p))
	l, err := listenUnix(o.Address, o.UID, o.GID)
	if err != nil {
		return err
	}
	d.serveGRPC(l, o.MaxRecvMessageSize, o.MaxSendMessageSize)
	return nil
}

func (d *Daemon) openTCP(p *service.Plugin) error {
	o := options[tcpOptions](d.config, pluginURI(p))
	if o.Address == "" {
		return errSkip
	}
	var opts []grpc.ServerOption
	if o.TLSCert != "" || o.TLSKey != "" || o.TLSCA != "" {
		c, err := tlsConfig(o)
		if err != nil {
			return err
		}
		opts = append(opts, grpc.Creds(credentials.NewTLS(c)))
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return err
	}
	d.serveGRPC(l, o.MaxRecvMessageSize, o.MaxSendMessageSize, opts...)
	return nil
}

// tlsConfig asks for a client's certificate if there is an authority to check
// it with, and for that common name if there is one.
func tlsConfig(o *tcpOptions) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", o.TLSCert, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if o.TLSCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(o.TLSCA)
	if err != nil {
		return nil, err
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority %s: no certificate in it: %w", o.TLSCA, errdefs.ErrInvalidArgument)
	}
	if o.TLSCommonName != "" {
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if n := s.PeerCertificates[0].Subject.CommonName; n != o.TLSCommonName {
				return fmt.Errorf("client certificate is that of %q", n)
			}
			return nil
		}
	}
	return c, nil
}

// serveGRPC serves what is registered so far. The API is asked much and
// answers little: buffers of the size of most messages are enough.
func (d *Daemon) serveGRPC(l net.Listener, maxRecv, maxSend int, opts ...grpc.ServerOption) {
	s := grpc.NewServer(append(opts,
		grpc.ForceServerCodecV2(bytestream.Codec()), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(orMax(maxRecv)), grpc.MaxSendMsgSize(orMax(maxSend)),
		grpc.ChainUnaryInterceptor(d.unary), grpc.ChainStreamInterceptor(d.stream),
	)...)
	for _, r := range d.services {
		s.RegisterService(r.desc, r.impl)
	}
	d.calls.expect(s.GetServiceInfo())
	d.servers = append(d.servers, server{
		Listener: l,
		serve:    func() error { return s.Serve(l) },
		stop:     func() { stopGRPC(s) },
	})
}

// stopGRPC lets requests end, tells those that go on that they are cancelled,
// and gives these the time to undo what they did.
func stopGRPC(s *grpc.Server) {
	t := time.AfterFunc(stopTime, s.Stop) // Wait and Subscribe go on for ever
	defer t.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	select {
	case <-done:
	case <-time.After(undoTime):
	}
}

func orMax(n int) int {
	if n <= 0 {
		return maxMessage
	}
	return n
}

// openTTRPC serves shims, which run as the daemon's user.
func (d *Daemon) openTTRPC(p *service.Plugin) error {
	o := options[ttrpcOptions](d.config, pluginURI(p))
	if o.Address == "" {
		return errSkip
	}
	s, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()), ttrpc.WithUnaryServerInterceptor(d.ttrpcUnary))
	if err != nil {
		return err
	}
	l, err := listenUnix(o.Address, o.UID, o.GID)
	if err != nil {
		return err
	}
	service.NewEvents(d.events).RegisterTTRPC(s)
	d.servers = append(d.servers, server{
		Listener: l,
		serve: func() error {
			if err := s.Serve(d.ctx, l); !errors.Is(err, ttrpc.ErrServerClosed) {
				return err
			}
			return nil
		},
		stop: func() {
			ctx, cancel := context.WithTimeout(context.Background(), stopTime)
			defer cancel()
			if s.Shutdown(ctx) != nil { // shims keep their connections
				s.Close()
			}
		},
	})
	return nil
}

func (d *Daemon) openMetrics(p *service.Plugin) error {
	o := options[metricsOptions](d.config, pluginURI(p))
	if o.Address == "" {
		return errSkip
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/metrics", d.metricsHandler())
	d.serveHTTP(l, mux)
	return nil
}

func (d *Daemon) openDebug(p *service.Plugin) error {
	o := options[ttrpcOptions](d.config, pluginURI(p))
	if o.Address == "" {
		return errSkip
	}
	l, err := listenUnix(o.Address, o.UID, o.GID)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/vars", expvar.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	d.serveHTTP(l, mux)
	return nil
}

func (d *Daemon) serveHTTP(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Minute} // a profile takes its time
	d.servers = append(d.servers, server{
		Listener: l,
		serve: func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		stop: func() { s.Close() },
	})
}
