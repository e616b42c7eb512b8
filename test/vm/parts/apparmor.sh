#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The default AppArmor profile: it is loaded, applied, and denies.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
scratch=$(mktemp -d)
[ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] || { echo "this kernel has AppArmor off" >&2; exit 1; }
start_daemon "$scratch" || exit 1
busybox_archive "$scratch/busybox.tar"
claim "an archive is imported" ctr images import --base-name busybox "$scratch/busybox.tar"
confined="--apparmor-default-profile slipway-default"

claim "a container runs with the profile" ctr run -d $confined busybox:latest confined sleep 600
claim "the kernel has it" holds '^slipway-default \(enforce\)' cat /sys/kernel/security/apparmor/profiles
claim "the process has it" same "slipway-default (enforce)" cat "/proc/$(task_pid confined)/attr/current"
claim "a process that is started later has it" same "slipway-default (enforce)" ctr t exec --exec-id 1 confined cat /proc/self/attr/current
claim "the container does its work" same ok ctr t exec --exec-id 2 confined sh -c 'echo ok >/tmp/file && cat /tmp/file'
remove confined
# Without read-only paths, as --privileged leaves them: it is the profile that denies.
write='echo 1 >/proc/sys/kernel/panic_on_oops'
trigger='echo h >/proc/sysrq-trigger'
claim "without the profile a privileged container writes to /proc/sys" ctr run --rm --privileged busybox:latest free sh -c "$write"
claim "with it, it does not" fails ctr run --rm --privileged $confined busybox:latest bound sh -c "$write"
claim "nor to sysrq-trigger" fails ctr run --rm --privileged $confined busybox:latest bound sh -c "$trigger"
claim "nor does it mount" fails ctr run --rm --privileged $confined busybox:latest bound mount -t tmpfs none /tmp
claim "a profile that is loaded can be named" same "slipway-default (enforce)" \
	ctr run --rm --apparmor-profile slipway-default busybox:latest named cat /proc/self/attr/current
claim "one that is not is an error" fails ctr run --rm --apparmor-profile slipway-none busybox:latest missing true

kill "$DAEMON_PID" && wait "$DAEMON_PID"
[ $broken -eq 0 ] || tail -40 "$scratch/containerd.log"
done_with apparmor
