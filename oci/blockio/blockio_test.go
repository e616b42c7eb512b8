// SPDX-License-Identifier: Apache-2.0

package blockio

import (
	"testing"

	"github.com/containerd/errdefs"
)

const classes = `
Classes:
  slow:
    - Weight: 80
    - Devices: [/dev/nothing-*, /dev/null]
      ThrottleReadBps: 60M
      Weight: 20
  fast:
    - Weight: 400
`

func TestParse(t *testing.T) {
	block, err := Parse([]byte(classes), "slow")
	if err != nil {
		t.Fatal(err)
	}
	if block.Weight == nil || *block.Weight != 80 {
		t.Errorf("weight %v", block.Weight)
	}
	if len(block.WeightDevice)+len(block.ThrottleReadBpsDevice) != 0 {
		t.Errorf("limits of no block device: %+v", block)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, is := range map[string]func(error) bool{
		"Classes: {}":                                    errdefs.IsNotFound,
		"Classes: {slow: [{Weight: 5}]}":                 errdefs.IsInvalidArgument,
		"Classes: {slow: [{Weight: 1k}]}":                nil,
		"Classes: {slow: [{Weight: x}]}":                 errdefs.IsInvalidArgument,
		"Classes: {slow: [{ThrottleReadBps: 1M}]}":       errdefs.IsInvalidArgument,
		"Classes: {slow: [{Wait: 1}]}":                   errdefs.IsInvalidArgument,
		"Classes: {slow: [{Devices: ['['], Weight: 9}]}": errdefs.IsInvalidArgument,
		"{": errdefs.IsInvalidArgument,
		"":  errdefs.IsInvalidArgument,
	} {
		_, err := Parse([]byte(text), "slow")
		if is == nil && err != nil || is != nil && !is(err) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestQuantity(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "7": 7, "60M": 60e6, "1Ki": 1024, "3G": 3e9, "16Ti": 16 << 40} {
		if got, err := quantity("x", text); err != nil || *got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"M", "-1", "1.5M", "99999999999999999999", "18446744073709551615k", "1m"} {
		if _, err := quantity("x", text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(classes))
	f.Fuzz(func(t *testing.T, data []byte) {
		if block, err := Parse(data, "slow"); err == nil && block == nil {
			t.Error("neither class nor error")
		}
	})
}
