// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/linux"
)

func TestOwnTerminalPrintsLinesButTakesKeysAsTheyAre(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("needs terminals: ", err)
	}
	defer master.Close()
	tty, err := linux.Peer(master)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	modes := func() *unix.Termios {
		t.Helper()
		m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := *modes()
	s := &stdio{host: tty}
	if err := s.raw(); err != nil {
		t.Fatal(err)
	}
	if m := modes(); m.Oflag&unix.OPOST == 0 || m.Oflag&unix.ONLCR == 0 || m.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("modes are %+v", m)
	}
	s.close()
	if after := modes(); *after != before {
		t.Errorf("modes are %+v afterwards, want %+v", after, before)
	}
}
