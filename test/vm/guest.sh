#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the parts that are named, inside of the machine, and says of each
# whether it passed.
cd "$(dirname "$0")/../.." || exit 2
echo "test/vm: kernel $(uname -r), pid 1 $(cat /proc/1/comm), cgroups $(stat -fc %T /sys/fs/cgroup)"
failed=0
for part in "$@"; do
	echo "=== part $part"
	start=$SECONDS
	if "test/vm/parts/$part.sh"; then
		echo "--- part $part: passed ($((SECONDS - start)) s)"
	else
		echo "--- part $part: FAILED ($((SECONDS - start)) s)"
		failed=1
	fi
done
exit $failed
