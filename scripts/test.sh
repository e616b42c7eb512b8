#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every test: those beside the code first, then those under test/, which
# start the built commands as root and run one package at a time, because they
# load the machine.
#
# What fails is run once more by itself at the end, when nothing else runs: the
# tests of a package that failed, or all of them if it ended in another way. A
# package that passes then is named: it has a race of its own or in the product,
# and somebody has to look for it. One that fails again fails the run.
set -eu
cd "$(dirname "$0")/.."
go vet ./...
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# run FLAGS...: go test, with its output shown and kept.
run() {
	go test -timeout 30m "$@" 2>&1 | tee -a "$log"
}
run -p 2 $(go list ./... | grep -v '^slipway/test/')
run -p 1 $(go list ./... | grep '^slipway/test/')

# culprits PACKAGE: a regular expression of the tests of a package that failed,
# or nothing when the package did not get to run them all.
culprits() {
	awk -v package="$1" '
		/^--- FAIL: / { names = names (names ? "|" : "") $3 }
		/^panic: / { short = 1 }
		/^(ok|FAIL|[?])[ \t]/ {
			if ($2 == package && names && !short)
				print "^(" names ")$"
			names = ""; short = 0
		}' "$log"
}

# What is neither "ok" nor without tests has failed, whatever was printed.
failed=""
for package in $(go list ./...); do
	grep -q -E "^(ok|\\?) +[[:space:]]*$package[[:space:]]" "$log" || failed="$failed $package"
done
again=""
for package in $failed; do
	tests=$(culprits "$package")
	echo "== once more: $package $tests"
	go test -timeout 30m -count=1 ${tests:+-run "$tests"} "$package" && continue
	again="$again $package"
done
[ -z "$failed" ] || echo "failed at first:" $failed
[ -z "$again" ] || { echo "failed twice:$again" >&2; exit 1; }
