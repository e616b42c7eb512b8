#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checkpoints of processes whose streams are files or terminals.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
scratch=$(mktemp -d)
start_daemon "$scratch" || exit 1
busybox_archive "$scratch/busybox.tar"
claim "an archive is imported" ctr images import --base-name busybox "$scratch/busybox.tar"

# A file gives way to the streams of the restore.
claim "one that writes to a file" ctr run -d --log-uri "file://$scratch/log" busybox:latest file sh -c 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done'
claim "it prints" until_so grep -q "line 5" "$scratch/log"
claim "it is written down" ctr c checkpoint --rw --image --task file busybox:file
remove file
claim "it comes back" ctr c restore --rw --live file2 busybox:file
ctr t attach file2 >"$scratch/restored" 2>&1 &
follower=$!
claim "it goes on, to the client" until_so grep -qE "^line [0-9]+" "$scratch/restored"
claim "not from the start" fails grep -qx "line 1" "$scratch/restored"
claim "it is written down again" ctr c checkpoint --rw --image --task file2 busybox:file2
remove file2
wait $follower
claim "nothing of it is left" fails holds file2 ctr t ls

# A terminal.
claim "one with a terminal" ctr run -d -t busybox:latest terminal sh -c "i=0; while :; do i=\$((i+1)); echo line \$i; sleep 0.5; done"
claim "it is written down" ctr c checkpoint --rw --image --task terminal busybox:terminal
remove terminal
script -qfc "ctr c restore --rw --live terminal2 busybox:terminal" "$scratch/typescript" >/dev/null 2>&1 &
claim "it comes back on another" until_so grep -qE "line [0-9]+" "$scratch/typescript"
remove terminal2

kill "$DAEMON_PID" && wait "$DAEMON_PID"
[ $broken -eq 0 ] || tail -20 "$scratch/containerd.log"
done_with streams
