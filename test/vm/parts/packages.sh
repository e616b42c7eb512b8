#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The tests of what speaks to the kernel, on one with cgroup v2 and systemd.
# PACKAGES names those to run, TESTS a pattern of tests.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
export RUNC=$PWD/bin/runc SHIM=$PWD/bin/containerd-shim-runc-v2
for file in $(find . -name package.test | sort); do
	package=$(dirname "${file#./}")
	case " ${PACKAGES:-$package} " in *" $package "*) ;; *) continue ;; esac
	out=$(cd "$package" && ./package.test -test.v -test.timeout 30m ${TESTS:+-test.run "$TESTS"} 2>&1)
	status=$?
	[ $status -eq 0 ] || { broken=$((broken + 1)); tail -c 20000 <<<"$out"; }
	echo "package $package: status $status, $(grep -c '^ *--- PASS' <<<"$out") passed, $(grep -c '^ *--- FAIL' <<<"$out") failed, $(grep -c '^ *--- SKIP' <<<"$out") skipped"
	grep -A1 -E '^ *--- SKIP' <<<"$out" | grep -v '^--$'
done
done_with packages
