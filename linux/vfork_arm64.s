// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// func vforkCall(nr, arg0, arg1 uintptr) (pid uintptr, errno syscall.Errno)
// The return address is in R30, which the kernel keeps.
TEXT ·vforkCall(SB), NOSPLIT|NOFRAME, $0-40
	MOVD nr+0(FP), R8
	MOVD arg0+8(FP), R0
	MOVD arg1+16(FP), R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD ZR, R5
	SVC
	CMN  $4095, R0
	BCS  failed
	MOVD R0, pid+24(FP)
	MOVD ZR, errno+32(FP)
	RET

failed:
	NEG  R0, R0
	MOVD ZR, pid+24(FP)
	MOVD R0, errno+32(FP)
	RET
