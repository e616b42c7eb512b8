#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers of a user who is not root, in groups that the user's own systemd
# makes, and without any; the same by runc 1.5.1, to see that it is possible.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
user=slipway-rootless
id $user >/dev/null 2>&1 || useradd -m -s /bin/bash $user || exit 1
uid=$(id -u $user)
loginctl enable-linger $user || exit 1
# Waits until the user's systemd is there.
systemctl start "user@$uid.service" || { systemctl status --no-pager "user@$uid.service"; exit 1; }
until_so test -S "/run/user/$uid/bus" || exit 1
scratch=$(mktemp -d /var/tmp/rootless.XXXXXX)
mkdir -p "$scratch"/{bin,rootfs/{bin,proc,sys,dev,tmp,etc}}
cp /bin/busybox "$scratch/rootfs/bin/"
for name in $(busybox --list); do ln -sf busybox "$scratch/rootfs/bin/$name"; done
cp bin/runc "$scratch/bin/ours"
[ ! -x .cache/peers/runc ] || cp .cache/peers/runc "$scratch/bin/upstreams"
chown -R $user "$scratch"

# as COMMAND...: by the user, with the user's bus, in the directory.
as() {
	setpriv --reuid "$uid" --regid "$(id -g $user)" --init-groups env -C "$scratch" -u CONTAINERD_ADDRESS \
		HOME="$(getent passwd $user | cut -d: -f6)" USER=$user XDG_RUNTIME_DIR="/run/user/$uid" DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$uid/bus" "$@"
}
# run COMMAND...: the runtime.
run() { as "./bin/$runtime" --root "/run/user/$uid/$runtime" "$@"; }
# config FILTER: the bundle's configuration.
config() {
	rm -f "$scratch/config.json"
	run spec --rootless && as sh -c "jq '.process.terminal = false | $1' config.json >new && mv new config.json"
}
# group ID: the container's.
group() { cgroup_of "$(run state "$1" | jq .pid)"; }

for runtime in upstreams ours; do
	[ -x "$scratch/bin/$runtime" ] || continue
	claim "$runtime: a bundle" config '.process.args = ["sh", "-c", "id -u; echo hi"]'
	claim "$runtime: a container runs without a group of its own" same "0
hi" run run plain

	claim "$runtime: a bundle with limits" config '.process.args = ["sleep", "1000"] | .linux.resources = {memory: {limit: 67108864}, pids: {limit: 50}}'
	claim "$runtime: a container in a scope" run --systemd-cgroup run -d scope
	path=$(group scope)
	claim "$runtime: below the user's systemd" holds "user@$uid.service/.*scope$" echo "$path"
	claim "$runtime: with the limit of memory" same 67108864 cat "$path/memory.max"
	claim "$runtime: and that of tasks" same 50 cat "$path/pids.max"
	claim "$runtime: systemd knows" same 67108864 as systemctl --user show -P MemoryMax "$(basename "$path")"
	claim "$runtime: limits change" run --systemd-cgroup update --memory 33554432 scope
	claim "$runtime: they have" same 33554432 cat "$path/memory.max"
	claim "$runtime: a process joins it" same in run --systemd-cgroup exec scope echo in
	claim "$runtime: pause" run --systemd-cgroup pause scope
	claim "$runtime: frozen" holds 'frozen 1' cat "$path/cgroup.events"
	claim "$runtime: resume" run --systemd-cgroup resume scope
	claim "$runtime: events" holds '"limit":33554432' run events --stats scope
	claim "$runtime: processes" holds sleep run ps scope
	claim "$runtime: it is deleted" run delete --force scope
	claim "$runtime: its group is gone" until_so test ! -d "$path"
	claim "$runtime: so is the unit" fails as systemctl --user is-active "$(basename "$path")"

	# A group that was handed to the user.
	mine=/sys/fs/cgroup/rootless-$runtime
	claim "$runtime: a bundle with a group" config '.process.args = ["sleep", "1000"] | .linux.cgroupsPath = "'/rootless-$runtime/inner'" | .linux.resources = {pids: {limit: 50}}'
	mkdir -p $mine && chown -R $user $mine && echo +pids >$mine/cgroup.subtree_control
	# Moving takes the right to write to the nearest common group, too.
	claim "$runtime: a container in it" sh -c "echo \$\$ >$mine/cgroup.procs 2>/dev/null || { mkdir $mine/start; chown $user $mine/start $mine/start/cgroup.procs; echo \$\$ >$mine/start/cgroup.procs; }
		cd $scratch && exec setpriv --reuid $uid --clear-groups env XDG_RUNTIME_DIR=/run/user/$uid ./bin/$runtime --root /run/user/$uid/$runtime run -d inner"
	claim "$runtime: with its limit" same 50 cat $mine/inner/pids.max
	claim "$runtime: deleted" run delete --force inner
	claim "$runtime: without a rest" until_so test ! -d $mine/inner
	rmdir $mine/start $mine
done
loginctl disable-linger $user
rm -rf "$scratch"
done_with rootless
