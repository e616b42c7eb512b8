// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func madvise(addr, length, advice uintptr)
TEXT ·madvise(SB), NOSPLIT, $0-24
	MOVD addr+0(FP), R0
	MOVD length+8(FP), R1
	MOVD advice+16(FP), R2
	MOVD $233, R8 // SYS_MADVISE
	SVC
	RET
