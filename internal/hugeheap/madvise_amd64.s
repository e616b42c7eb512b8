// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func madvise(addr, length, advice uintptr)
TEXT ·madvise(SB), NOSPLIT, $0-24
	MOVQ addr+0(FP), DI
	MOVQ length+8(FP), SI
	MOVQ advice+16(FP), DX
	MOVL $28, AX // SYS_MADVISE
	SYSCALL
	RET
