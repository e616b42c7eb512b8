#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The installed system below systemd: the unit, the tutorial, restarts with a
# container that goes on, limits, and user namespaces.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
cp -a tree/usr/. /usr/
mkdir -p /etc/containerd && cp tree/etc/containerd/config.toml /etc/containerd/
PATH=/usr/bin:$PATH
systemctl daemon-reload
claim "the unit is enabled" systemctl enable containerd
claim "the daemon says that it is ready" systemctl start containerd
claim "the unit is active" same active systemctl is-active containerd
claim "its type is notify" same notify systemctl show -P Type containerd

# The tutorial, with an image from an archive.
busybox_archive /tmp/busybox.tar
claim "an archive is imported" ctr images import --base-name busybox /tmp/busybox.tar
claim "the image is listed" same busybox:latest ctr i ls -q
claim "its content is whole" holds 'complete' ctr i check
claim "a container runs" ctr run -d busybox:latest busybox
claim "it is listed" holds 'busybox +busybox:latest +io.containerd.runc.v2' ctr c ls
claim "its task runs" task_is busybox RUNNING
claim "a process runs in it" holds '^bin$' ctr t exec --exec-id 1860 busybox ls
claim "output and input" same hi sh -c 'echo hi | ctr run --rm busybox:latest pipe cat'
claim "its exit code" same 7 sh -c 'ctr run --rm busybox:latest code sh -c "exit 7"; echo $?'

# The daemon comes and goes, the container stays.
pid=$(task_pid busybox)
shim=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status")
same_task() { [ "$(task_pid busybox)" = "$pid" ] && task_is busybox RUNNING; }
main=$(systemctl show -P MainPID containerd)
claim "the daemon restarts" systemctl restart containerd
claim "it is another process" fails test "$(systemctl show -P MainPID containerd)" = "$main"
claim "the container went on" same_task
claim "a process runs in it after the restart" same in ctr t exec --exec-id 2 busybox echo in
claim "the daemon stops" systemctl stop containerd
claim "the unit is inactive" same inactive systemctl show -P ActiveState containerd
claim "the container runs without it" test -d "/proc/$pid"
claim "and its shim too" same containerd-shim cat "/proc/$shim/comm"
claim "the daemon starts" systemctl start containerd
claim "it finds the container" same_task
claim "a process runs in it after the start" same in ctr t exec --exec-id 3 busybox echo in
kill -9 "$(systemctl show -P MainPID containerd)"
claim "a killed daemon is started again" until_so ctr version
claim "it finds the container, too" same_task
kill -9 "$(cat "/run/containerd/io.containerd.runtime.v2.task/default/busybox/shim.pid" 2>/dev/null || echo "$shim")"
claim "a killed shim takes its container along" until_so test ! -d "/proc/$pid"
claim "and the task is stopped or gone" until_so sh -c '! ctr t ls | grep -q RUNNING'
remove busybox

# Control groups of version 2.
events=$(mktemp)
ctr events >"$events" 2>&1 &
follower=$!
claim "limits" ctr run -d --memory-limit 67108864 --cpus 0.5 busybox:latest limits sleep 600
group=$(cgroup_of "$(task_pid limits)")
claim "of memory" same 67108864 cat "$group/memory.max"
claim "of CPU time" same "50000 100000" cat "$group/cpu.max"
claim "metrics are those of version 2" holds 'memory.usage_in_bytes +[1-9]|memory.usage +[1-9]' ctr t metrics limits
claim "metrics have the limit" holds '67108864' ctr t metrics --format json limits
claim "pause" ctr t pause limits
claim "the task is paused" task_is limits PAUSED
claim "the group is frozen" holds 'frozen 1' cat "$group/cgroup.events"
claim "no process starts in it" fails ctr t exec --exec-id p limits true
claim "resume" ctr t resume limits
claim "the task runs again" task_is limits RUNNING
claim "the group is thawed" holds 'frozen 0' cat "$group/cgroup.events"
claim "runc lists it" holds '^limits +.*running' bin/runc --root /run/containerd/runc/default list
claim "its limits change" bin/runc --root /run/containerd/runc/default update --memory 134217728 --pids-limit 100 limits
claim "memory's did" same 134217728 cat "$group/memory.max"
claim "that of tasks did" same 100 cat "$group/pids.max"
remove limits
claim "its group is gone" test ! -d "$group"
claim "a process that takes too much is killed" same 137 sh -c '
	ctr run --rm --memory-limit 16777216 busybox:latest oom sh -c "tail -c 200000000 /dev/zero | tail >/dev/null; sleep 600; exit 3" & c=$!
	(sleep '"$SLIPWAY_PATIENCE"'; ctr t kill -s SIGKILL oom) & 
	until grep -q "/tasks/oom" '"$events"' || ! kill -0 $c 2>/dev/null; do sleep 0.2; done
	ctr t kill -s SIGKILL oom >/dev/null 2>&1; kill $! 2>/dev/null
	wait $c; echo $?'
claim "lack of memory is an event" until_so grep -q "/tasks/oom" "$events"
claim "starts and exits are events" holds '/tasks/exit' cat "$events"
kill $follower

# systemd makes the groups.
claim "groups by systemd" ctr run -d --runc-systemd-cgroup --cgroup system.slice:slipway:units --memory-limit 67108864 busybox:latest units sleep 600
claim "the scope is active" same active systemctl show -P ActiveState slipway-units.scope
claim "it has the limit" same 67108864 systemctl show -P MemoryMax slipway-units.scope
claim "the process is in it" holds 'system.slice/slipway-units.scope' cat "/proc/$(task_pid units)/cgroup"
claim "metrics of the scope" holds '67108864' ctr t metrics --format json units
systemctl restart containerd
claim "the daemon's restart leaves it" task_is units RUNNING
remove units
claim "the scope is gone" until_so fails systemctl is-active -q slipway-units.scope

# A user namespace whose root file system is mounted with its ids.
claim "ids are mapped" ctr run -d --uidmap 0:100000:65536 --gidmap 0:200000:65536 busybox:latest mapped sleep 600
pid=$(task_pid mapped)
claim "root is another outside" same "100000 200000" stat -c '%u %g' "/proc/$pid"
claim "root is root inside" same "0:0" ctr t exec --exec-id 1 mapped stat -c '%u:%g' /bin/busybox
claim "the mount is id-mapped" holds 'idmapped|uidmap' sh -c "ctr snapshots mounts /mnt mapped; grep -h overlay /proc/$pid/mountinfo /proc/self/mountinfo"
claim "it writes" ctr t exec --exec-id 2 mapped sh -c 'echo x >/etc/written'
mkdir -p /tmp/shared && chmod 700 /tmp/shared && echo secret >/tmp/shared/file
claim "a bind mount is id-mapped" same "0:0" ctr run --rm --uidmap 0:100000:65536 --gidmap 0:200000:65536 \
	--mount type=bind,src=/tmp/shared,dst=/shared,options=rbind:idmap busybox:latest bound stat -c '%u:%g' /shared/file
remove mapped

claim "the daemon stops at last" systemctl disable --now containerd
claim "nothing is left mounted" fails grep -E ' /run/containerd/.*/rootfs ' /proc/self/mountinfo
claim "no shim is left" fails pgrep -f containerd-shim-runc-v2
[ $broken -eq 0 ] || journalctl -u containerd --no-pager | tail -60
done_with daemon
