// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"io"
	"log"
	"time"
)

var zeroTime time.Time

func nopLog() *log.Logger { return log.New(io.Discard, "", 0) }
