// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// Ping asks the registry at address, not its mirrors, whether it is one and
// lets us in. A refusal is errdefs.ErrUnauthenticated or ErrPermissionDenied.
func Ping(ctx context.Context, address string, opts Options) error {
	if opts.sleep == nil {
		opts.sleep = sleep
	}
	hosts, err := findHosts(address, opts)
	if err != nil {
		return err
	}
	h := hosts[len(hosts)-1]
	req := request{method: http.MethodGet, patient: true}
	resp, err := h.do(ctx, req)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		drain(resp)
		return nil
	case http.StatusNotFound:
		drain(resp)
		return fmt.Errorf("%s is no registry of API version 2: %w", address, errdefs.ErrNotFound)
	}
	return h.unexpected(req, resp)
}
