// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An insn is one instruction of eBPF (struct bpf_insn of <linux/bpf.h>).
type insn struct {
	op       uint8
	dst, src uint8
	off      int16
	imm      int32
}

// Registers: the context comes in r1, the verdict goes out in r0.
const (
	regVerdict = iota
	regContext
	regKind
	regAccess // what is asked for and not yet allowed
	regMajor
	regMinor
	regScratch
)

// Opcodes of what the program does. Jumps compare all 64 bits: those of 32
// (BPF_JMP32) need Linux 5.1.
const (
	opLoad     = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMove32   = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
	opMove     = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opAnd32    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShift32  = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opNotEqual = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	opEqual    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opExit     = unix.BPF_JMP | unix.BPF_EXIT
)

// deviceProgram compiles rules to a program of BPF_PROG_TYPE_CGROUP_DEVICE,
// which returns 1 to allow. It goes from the last rule to the first: an
// allowing rule takes its kinds of access off what is asked for, until nothing
// is left; a denying rule that has one of those left ends it.
func deviceProgram(rules []deviceRule) []insn {
	// struct bpf_cgroup_dev_ctx: access<<16 | type, major, minor.
	p := []insn{
		{op: opLoad, dst: regKind, src: regContext, off: 0},
		{op: opMove, dst: regAccess, src: regKind},
		{op: opAnd32, dst: regKind, imm: 0xffff},
		{op: opShift32, dst: regAccess, imm: 16},
		{op: opLoad, dst: regMajor, src: regContext, off: 4},
		{op: opLoad, dst: regMinor, src: regContext, off: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		p = append(p, ruleProgram(rules[i])...)
		if rules[i].kind == 'a' {
			return p // nothing gets past it
		}
	}
	return append(p, verdictProgram(0)...)
}

func verdictProgram(allow int32) []insn {
	return []insn{{op: opMove32, dst: regVerdict, imm: allow}, {op: opExit}}
}

// ruleProgram goes on to the instruction after it if the rule does not decide.
func ruleProgram(r deviceRule) []insn {
	var p []insn
	if r.kind == 'a' {
		if r.allow {
			return verdictProgram(1)
		}
		return verdictProgram(0)
	}
	var body []insn
	if r.allow {
		body = append(body,
			insn{op: opAnd32, dst: regAccess, imm: int32(^r.access & accessAll)},
			insn{op: opNotEqual, dst: regAccess, imm: 0, off: 2})
		body = append(body, verdictProgram(1)...)
	} else {
		body = append(body,
			insn{op: opMove, dst: regScratch, src: regAccess},
			insn{op: opAnd32, dst: regScratch, imm: int32(r.access)},
			insn{op: opEqual, dst: regScratch, imm: 0, off: 2})
		body = append(body, verdictProgram(0)...)
	}
	kind := int32(unix.BPF_DEVCG_DEV_BLOCK)
	if r.kind == 'c' {
		kind = unix.BPF_DEVCG_DEV_CHAR
	}
	p = append(p, insn{op: opNotEqual, dst: regKind, imm: kind})
	if r.major != any_ {
		p = append(p, insn{op: opNotEqual, dst: regMajor, imm: int32(uint32(r.major))})
	}
	if r.minor != any_ {
		p = append(p, insn{op: opNotEqual, dst: regMinor, imm: int32(uint32(r.minor))})
	}
	for i := range p {
		p[i].off = int16(len(p) - 1 - i + len(body))
	}
	return append(p, body...)
}

// encode lays a program out as the kernel reads it.
func encode(p []insn) []byte {
	var out []byte
	for _, i := range p {
		registers := i.dst | i.src<<4
		if nativeBig {
			registers = i.src | i.dst<<4
		}
		out = append(out, i.op, registers)
		out = binary.NativeEndian.AppendUint16(out, uint16(i.off))
		out = binary.NativeEndian.AppendUint32(out, uint32(i.imm))
	}
	return out
}

var nativeBig = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// attachDevices makes the rules those of the group dir: the program is
// attached before older ones are taken away, so that there is no moment
// without.
func attachDevices(dir string, rules []deviceRule) error {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("device rules: %w", err)
	}
	defer f.Close()
	group := int(f.Fd())
	old, err := attached(group)
	if err != nil {
		return fmt.Errorf("device rules of %s: list programs: %w", dir, err)
	}
	prog, err := loadDevices(deviceProgram(rules))
	if err != nil {
		return fmt.Errorf("device rules of %s: load program: %w", dir, err)
	}
	defer unix.Close(prog)
	// BPF_F_ALLOW_MULTI leaves the programs of groups above in force, of
	// which one may be the caller's own container.
	if err := attach(unix.BPF_PROG_ATTACH, group, prog, unix.BPF_F_ALLOW_MULTI); err != nil {
		return fmt.Errorf("device rules of %s: attach program: %w", dir, err)
	}
	for _, id := range old {
		if err := detach(group, id); err != nil {
			return fmt.Errorf("device rules of %s: detach program %d: %w", dir, id, err)
		}
	}
	return nil
}

// bpf is bpf(2).
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		if errno == 0 {
			return int(r), nil
		}
		if errno != unix.EINTR && errno != unix.EAGAIN {
			return -1, os.NewSyscallError("bpf", errno)
		}
	}
}

// loadDevices loads a program. The licence is that of its text; none of the
// helpers that are for the GPL only is called.
func loadDevices(p []insn) (int, error) {
	code, license := encode(p), []byte("Apache-2.0\x00")
	attr := struct { // of union bpf_attr
		kind, count    uint32
		insns, license uint64
		level, size    uint32
		log            uint64
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(p)),
		insns: pointer(code), license: pointer(license),
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	return fd, err
}

func pointer(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func attach(command, group, prog int, flags uint32) error {
	attr := struct{ group, prog, kind, flags uint32 }{uint32(group), uint32(prog), unix.BPF_CGROUP_DEVICE, flags}
	_, err := bpf(command, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func detach(group int, id uint32) error {
	attr := struct{ id, next, flags uint32 }{id: id}
	prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	return attach(unix.BPF_PROG_DETACH, group, prog, 0)
}

// attached are the identifiers of the programs of a group itself.
func attached(group int) ([]uint32, error) {
	ids := make([]uint32, 64) // the kernel's limit (BPF_CGROUP_MAX_PROGS)
	attr := struct {
		group, kind, query, flags uint32
		ids                       uint64
		count, _                  uint32
	}{group: uint32(group), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(ids)))), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(ids)
	if err != nil {
		return nil, err
	}
	return ids[:attr.count], nil
}
