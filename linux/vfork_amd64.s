// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func vforkCall(nr, arg0, arg1 uintptr) (pid uintptr, errno syscall.Errno)
TEXT ·vforkCall(SB), NOSPLIT|NOFRAME, $0-40
	MOVQ nr+0(FP), AX
	MOVQ arg0+8(FP), DI
	MOVQ arg1+16(FP), SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	XORL R9, R9
	MOVQ 0(SP), R12
	SYSCALL
	MOVQ R12, 0(SP)
	CMPQ AX, $-4095
	JCC  failed
	MOVQ AX, pid+24(FP)
	MOVQ $0, errno+32(FP)
	RET

failed:
	NEGQ AX
	MOVQ $0, pid+24(FP)
	MOVQ AX, errno+32(FP)
	RET
