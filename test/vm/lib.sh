# SPDX-License-Identifier: Apache-2.0
# Functions of the parts. Sourced, in the machine.
set -uo pipefail
. scripts/lib.sh
PATH=$PWD/bin:$PATH
export SLIPWAY_PATIENCE=${SLIPWAY_PATIENCE:-600} # seconds to wait for anything; an emulated machine is slow and its clock may run fast
broken=0

# claim TEXT COMMAND...: what is promised, and whether the command agrees.
claim() {
	local text=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "ok    $text"
	else
		echo "WRONG $text: $*: $out"
		broken=$((broken + 1))
	fi
}

# done_with NAME: the end of a part, with its status.
done_with() {
	[ $broken -eq 0 ] || { echo "$1: $broken claims do not hold" >&2; exit 1; }
}

# same WANT COMMAND...: whether the command prints this.
same() {
	local want=$1 got
	shift
	got=$("$@") || return
	[ "$got" = "$want" ] || { echo "prints '$got', not '$want'"; return 1; }
}

# holds PATTERN COMMAND...: whether a line that the command prints matches.
holds() {
	local pattern=$1 got
	shift
	got=$("$@" 2>&1)
	grep -qE -- "$pattern" <<<"$got" || { echo "no $pattern in: $got"; return 1; }
}

# fails COMMAND...: whether the command fails.
fails() { ! "$@"; }

# until_so COMMAND...: waits until the command succeeds.
until_so() { wait_for "$SLIPWAY_PATIENCE" "$@"; }

# task_is ID STATUS: whether the task has that status.
task_is() { [ "$(ctr t ls | awk -v id="$1" '$1 == id { print $3 }')" = "$2" ]; }

# task_pid ID: the process of the task.
task_pid() { ctr t ls | awk -v id="$1" '$1 == id { print $2 }'; }

# cgroup_of PID: its directory.
cgroup_of() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$1/cgroup")"; }

# busybox_archive FILE: an archive of an image busybox:latest.
busybox_archive() {
	local dir
	dir=$(mktemp -d)
	busybox_image "$dir/image"
	tar -C "$dir/image" -cf "$1" .
	rm -rf "$dir"
}

# remove ID: the task and the container.
remove() {
	ctr t rm -f "$1" >/dev/null 2>&1
	ctr c rm "$1"
}
