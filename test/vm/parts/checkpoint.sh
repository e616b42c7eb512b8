#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers are written down by CRIU and brought back: by runc, and through
# the shim, the daemon and ctr.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
scratch=$(mktemp -d)
claim "CRIU works here" criu check
if [ -x test/runtime/package.test ]; then
	claim "runc restores what it wrote" env -C test/runtime RUNC="$PWD/bin/runc" ./package.test -test.run 'Checkpoint|Restore' -test.v
fi
start_daemon "$scratch" || exit 1
busybox_archive "$scratch/busybox.tar"
claim "an archive is imported" ctr images import --base-name busybox "$scratch/busybox.tar"
count='i=0; while :; do i=$((i+1)); echo $i >/n.new; mv /n.new /n; sleep 0.1; done'

# number ID: how far it has counted.
number() { ctr t exec --exec-id "n$RANDOM" "$1" cat /n; }
# beyond ID N: whether it has counted further.
beyond() { [ "$(number "$1")" -gt "$2" ]; }

claim "a container counts" ctr run -d busybox:latest counter sh -c "$count"
claim "it has begun" until_so beyond counter 10

# Into a directory.
claim "a task is written to a directory" ctr t checkpoint --image-path "$scratch/images" --work-path "$scratch/work" counter
claim "there are images" test -s "$scratch/images/inventory.img"
claim "it goes on" until_so beyond counter "$(number counter)"

# Into an image.
name=$(ctr t checkpoint counter)
claim "a task is written to an image" holds "^containerd.io/checkpoint/counter:" echo "$name"
claim "which is listed" holds "^$name$" ctr i ls -q
claim "it goes on, again" until_so beyond counter "$(number counter)"

# A container with its processes, its files and its image.
claim "a container is written to an image" ctr c checkpoint --rw --image --task counter busybox:checkpoint
at=$(number counter)
claim "it still goes on" until_so beyond counter "$at"
claim "its group is its own" fails ctr c restore --rw --live restored busybox:checkpoint
claim "it goes on after that" until_so beyond counter "$(number counter)"
ctr c rm restored 2>/dev/null
claim "it ends with a last checkpoint" ctr t checkpoint --exit --image-path "$scratch/last" counter
claim "it has ended" until_so task_is counter STOPPED
claim "what is stopped cannot be written" fails ctr t checkpoint counter
remove counter
claim "it comes back under another name" ctr c restore --rw --live restored busybox:checkpoint
claim "and runs" until_so task_is restored RUNNING
claim "its files came back and it counts on" until_so beyond restored "$((at - 5))"
claim "not from the start" beyond restored 10
claim "what was masked is masked" same 0 sh -c "ctr t exec --exec-id masked restored cat /proc/keys | wc -c"
claim "and not by the host's null device" fails ctr t exec --exec-id masks restored grep -q 'devtmpfs.*/proc/keys\|/proc/keys.*devtmpfs' /proc/self/mountinfo
claim "its parent is a shim" same containerd-shim sh -c "cat /proc/$(awk '$1 == "PPid:" { print $2 }' "/proc/$(task_pid restored)/status")/comm"
claim "metrics of it" holds 'memory' ctr t metrics restored
claim "it is paused" ctr t pause restored
claim "and resumed" ctr t resume restored
claim "it can be written again" ctr c checkpoint --rw --image --task restored busybox:again
kill "$DAEMON_PID" && wait "$DAEMON_PID"
start_daemon "$scratch"
claim "the daemon finds it after a restart" task_is restored RUNNING
claim "it is killed" ctr t kill -s SIGKILL restored
claim "its end is seen" until_so task_is restored STOPPED
remove restored
claim "it can come back twice" ctr c restore --rw --live second busybox:again
claim "and runs, again" until_so beyond second "$at"
remove second

# Upstream's client.
peer=.cache/peers/ctr
if [ -x $peer ]; then
	claim "a container for upstream's client" ctr run -d busybox:latest theirs sh -c "$count"
	until_so beyond theirs 5
	claim "upstream's client writes it" $peer c checkpoint --rw --image --task theirs busybox:theirs
	remove theirs
	claim "upstream's client brings it back" timeout 120 $peer c restore --rw --live theirs2 busybox:theirs
	claim "and it counts on" until_so beyond theirs2 5
	remove theirs2
fi
kill "$DAEMON_PID" && wait "$DAEMON_PID"
if [ $broken -ne 0 ]; then
	tail -40 "$scratch/containerd.log"
	find "$scratch" /run/containerd -name '*.log' -path '*work*' -exec tail -25 {} +
fi
done_with checkpoint
