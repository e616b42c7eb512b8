// SPDX-License-Identifier: Apache-2.0

package ttrpc

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// kinds are the errors that have a code on the wire (google.rpc.Code).
var kinds = []struct {
	code int32
	err  error
}{
	{1, context.Canceled},
	{3, errdefs.ErrInvalidArgument},
	{4, context.DeadlineExceeded},
	{5, errdefs.ErrNotFound},
	{6, errdefs.ErrAlreadyExists},
	{7, errdefs.ErrPermissionDenied},
	{8, errdefs.ErrResourceExhausted},
	{9, errdefs.ErrFailedPrecondition},
	{10, errdefs.ErrAborted},
	{11, errdefs.ErrOutOfRange},
	{12, errdefs.ErrNotImplemented},
	{13, errdefs.ErrInternal},
	{14, errdefs.ErrUnavailable},
	{15, errdefs.ErrDataLoss},
	{16, errdefs.ErrUnauthenticated},
}

const codeUnknown = 2

// toStatus converts the error of a handler, nil for nil.
func toStatus(err error) *status {
	if err == nil {
		return nil
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return &status{Code: k.code, Message: err.Error()}
		}
	}
	return &status{Code: codeUnknown, Message: err.Error()}
}

// err converts a status back: errors.Is finds its kind.
func (s *status) err() error {
	if s == nil || s.Code == 0 {
		return nil
	}
	for _, k := range kinds {
		if k.code == s.Code {
			return fmt.Errorf("%s: %w", s.Message, k.err)
		}
	}
	return errors.New(s.Message)
}
