// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run gen.go

// columns of the table of system calls, in gen.go's order.
const (
	colAMD64 = iota
	colX32
	col386
	colARM
	colARM64
	colLoong64
	colMIPS
	colMIPS64
	colPPC
	colPPC64
	colRISCV64
	colS390X
	columns
)

// A call is a system call's number on every machine, -1 where there is none.
type call struct {
	name string
	nr   [columns]int16
}

// x32Bit marks the calls of x32, which shares its audit architecture with
// x86-64 (<asm/unistd.h>).
const x32Bit = 0x40000000

// A machine is a kernel interface that a filter can tell from the others.
type machine struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_* of <linux/audit.h>, in seccomp_data.arch
	column int    // of table, -1: no numbers are known
	big    bool   // the high half of an argument comes first
	goarch string // of programs that are native to it
}

var machines = [...]machine{
	{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, colAMD64, false, "amd64"},
	{specs.ArchX32, unix.AUDIT_ARCH_X86_64, colX32, false, ""},
	{specs.ArchX86, unix.AUDIT_ARCH_I386, col386, false, "386"},
	{specs.ArchARM, unix.AUDIT_ARCH_ARM, colARM, false, "arm"},
	{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, colARM64, false, "arm64"},
	{specs.ArchLOONGARCH64, unix.AUDIT_ARCH_LOONGARCH64, colLoong64, false, "loong64"},
	{specs.ArchMIPS, unix.AUDIT_ARCH_MIPS, colMIPS, true, "mips"},
	{specs.ArchMIPSEL, unix.AUDIT_ARCH_MIPSEL, colMIPS, false, "mipsle"},
	{specs.ArchMIPS64, unix.AUDIT_ARCH_MIPS64, colMIPS64, true, "mips64"},
	{specs.ArchMIPSEL64, unix.AUDIT_ARCH_MIPSEL64, colMIPS64, false, "mips64le"},
	{specs.ArchMIPS64N32, unix.AUDIT_ARCH_MIPS64N32, -1, true, ""},
	{specs.ArchMIPSEL64N32, unix.AUDIT_ARCH_MIPSEL64N32, -1, false, ""},
	{specs.ArchPPC, unix.AUDIT_ARCH_PPC, colPPC, true, "ppc"},
	{specs.ArchPPC64, unix.AUDIT_ARCH_PPC64, colPPC64, true, "ppc64"},
	{specs.ArchPPC64LE, unix.AUDIT_ARCH_PPC64LE, colPPC64, false, "ppc64le"},
	{specs.ArchRISCV64, unix.AUDIT_ARCH_RISCV64, colRISCV64, false, "riscv64"},
	{specs.ArchS390X, unix.AUDIT_ARCH_S390X, colS390X, true, "s390x"},
	{specs.ArchS390, unix.AUDIT_ARCH_S390, -1, true, ""},
	{specs.ArchPARISC, unix.AUDIT_ARCH_PARISC, -1, true, ""},
	{specs.ArchPARISC64, unix.AUDIT_ARCH_PARISC64, -1, true, ""},
	{specs.ArchM68K, unix.AUDIT_ARCH_M68K, -1, true, ""},
	{specs.ArchSH, unix.AUDIT_ARCH_SHEL, -1, false, ""},
	{specs.ArchSHEB, unix.AUDIT_ARCH_SH, -1, true, ""},
}

// Archs are the names of the machines that a filter can be compiled for, sorted.
func Archs() []string {
	var names []string
	for _, m := range machines {
		if m.column >= 0 {
			names = append(names, string(m.name))
		}
	}
	slices.Sort(names)
	return names
}

func native() *machine {
	for i := range machines {
		if machines[i].goarch == runtime.GOARCH {
			return &machines[i]
		}
	}
	return nil
}

func machineOf(name specs.Arch) *machine {
	for i := range machines {
		if machines[i].name == name {
			return &machines[i]
		}
	}
	return nil
}

// armPrivate are the calls that 32-bit ARM keeps apart from the table
// (__ARM_NR_* of <asm/unistd.h>).
var armPrivate = [...]string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"}

const armPrivateBase = 0xf0001

// find is a name's place in the table.
func find(name string) *call {
	i, found := slices.BinarySearchFunc(table[:], name, func(c call, name string) int { return strings.Compare(c.name, name) })
	if !found {
		return nil
	}
	return &table[i]
}

// number is the number on m of the system call name, whose place in the table
// is c, or nil; without the bit of x32.
func (m *machine) number(name string, c *call) (uint32, bool) {
	if m.column == colARM {
		if i := slices.Index(armPrivate[:], name); i >= 0 {
			return armPrivateBase + uint32(i), true
		}
	}
	if c == nil || c.nr[m.column] < 0 {
		return 0, false
	}
	return uint32(c.nr[m.column]), true
}

// doorOf returns the call of some older machines behind which the kernel keeps
// name, and the first argument that tells it from the others there.
func doorOf(name string) (door string, nr uint64) {
	if i := slices.Index(socketCalls[:], name); i >= 0 {
		return "socketcall", uint64(i + 1)
	}
	if i := slices.Index(ipcCalls[:], name); i >= 0 {
		return "ipc", uint64(i + 1)
	}
	return "", 0
}

// socketCalls are in the order of SYS_SOCKET and so on in <linux/net.h>.
var socketCalls = [...]string{
	"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
	"sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg",
}

// ipcCalls are in the order of SEMOP and so on in <linux/ipc.h>.
var ipcCalls = [...]string{
	"semop", "semget", "semctl", "semtimedop", 10: "msgsnd", 11: "msgrcv", 12: "msgget", 13: "msgctl",
	20: "shmat", 21: "shmdt", 22: "shmget", 23: "shmctl",
}
