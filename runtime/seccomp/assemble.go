// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An assembler writes a program from its last instruction to its first, so
// that the target of every jump is known when the jump is written: classic BPF
// jumps forward only.
type assembler struct {
	code    []unix.SockFilter // in reverse
	returns map[uint32]label
	big     bool // the high half of an argument comes first
}

// A label is the place of an instruction in the reversed code.
type label int

// reach is how far a conditional jump goes, less room for what else is
// written before it.
const reach = 250

func (a *assembler) emit(code uint16, jt, jf uint8, k uint32) label {
	a.code = append(a.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return label(len(a.code) - 1)
}

// ret returns value to the kernel.
func (a *assembler) ret(value uint32) label {
	if l, ok := a.returns[value]; ok && len(a.code)-int(l) < reach {
		return l
	}
	l := a.emit(unix.BPF_RET|unix.BPF_K, 0, 0, value)
	a.returns[value] = l
	return l
}

// load puts the word at an offset of seccomp_data into the accumulator and
// goes on to next.
func (a *assembler) load(offset uint32, next label) label {
	a.follow(next)
	return a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset)
}

// follow makes next the instruction after the one that is written next.
func (a *assembler) follow(next label) {
	if int(next) != len(a.code)-1 {
		a.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(len(a.code)-int(next)-1))
	}
}

// near returns a label in reach that leads to l.
func (a *assembler) near(l label) label {
	if len(a.code)-int(l) < reach {
		return l
	}
	return a.emit(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(len(a.code)-int(l)-1))
}

// jump compares the accumulator with k by op, one of BPF_JEQ, JGT, JGE, JSET.
func (a *assembler) jump(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	no = a.near(no)
	yes = a.near(yes)
	here := len(a.code)
	return a.emit(unix.BPF_JMP|op|unix.BPF_K, uint8(here-int(yes)-1), uint8(here-int(no)-1), k)
}

// Offsets of struct seccomp_data (<linux/seccomp.h>).
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

// compare tests one argument, which the kernel hands over as two words.
func (a *assembler) compare(arg specs.LinuxSeccompArg, yes, no label) label {
	low, high := uint32(arg.Value), uint32(arg.Value>>32)
	lowAt := offsetArgs + 8*uint32(arg.Index)
	highAt := lowAt + 4
	if a.big {
		lowAt, highAt = highAt, lowAt
	}
	switch arg.Op {
	case specs.OpNotEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpEqualTo:
		l := a.load(lowAt, a.jump(unix.BPF_JEQ, low, yes, no))
		return a.load(highAt, a.jump(unix.BPF_JEQ, high, l, no))
	case specs.OpMaskedEqual:
		return a.masked(arg, lowAt, highAt, yes, no)
	case specs.OpLessThan:
		return a.order(unix.BPF_JGE, arg.Value, lowAt, highAt, no, yes)
	case specs.OpLessEqual:
		return a.order(unix.BPF_JGT, arg.Value, lowAt, highAt, no, yes)
	case specs.OpGreaterEqual:
		return a.order(unix.BPF_JGE, arg.Value, lowAt, highAt, yes, no)
	}
	return a.order(unix.BPF_JGT, arg.Value, lowAt, highAt, yes, no)
}

// order decides by the high words, and where those are equal by op on the low.
func (a *assembler) order(op uint16, value uint64, lowAt, highAt uint32, yes, no label) label {
	l := a.load(lowAt, a.jump(op, uint32(value), yes, no))
	equal := a.jump(unix.BPF_JEQ, uint32(value>>32), l, no)
	return a.load(highAt, a.jump(unix.BPF_JGT, uint32(value>>32), yes, equal))
}

func (a *assembler) masked(arg specs.LinuxSeccompArg, lowAt, highAt uint32, yes, no label) label {
	word := func(at, mask, want uint32, yes label) label {
		if mask == 0 && want == 0 {
			return yes
		}
		l := a.jump(unix.BPF_JEQ, want, yes, no)
		a.follow(l)
		a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, mask)
		return a.load(at, label(len(a.code)-1))
	}
	l := word(lowAt, uint32(arg.Value), uint32(arg.ValueTwo), yes)
	return word(highAt, uint32(arg.Value>>32), uint32(arg.ValueTwo>>32), l)
}

// program is the code in the order in which it runs.
func (a *assembler) program() []unix.SockFilter {
	slices.Reverse(a.code)
	return a.code
}
