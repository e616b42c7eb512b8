#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: run.sh [ROWS]: prints the table of ratios. ROWS is "all" or a list
# such as run,exec,runtime,memory,parallel,pull,tuned,one,tiny,shared,push,list,start.
set -eu
cd "$(dirname "$0")/.."
SLIPWAY_BENCH=${1:-all} exec go test -count=1 -timeout 3h ./bench -v 2>&1 | grep -v -E '^(=== |--- (PASS|SKIP)|PASS|    bench_test.go:[0-9]*: (make bench|not asked))'
