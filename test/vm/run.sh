#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Shows in a virtual machine what a build machine often cannot: cgroup v2 alone,
# systemd as pid 1, AppArmor, CRIU, and a power cut.
#
#	test/vm/run.sh [PART...]
#
# A part is a script in test/vm/parts; all of them run by default, in one
# machine, each in turn. SLIPWAY_VM_RUN names a program that runs a command as
# root in a Debian machine that is thrown away:
#
#	$SLIPWAY_VM_RUN -d DIR:/slipway -t SECONDS --boot-timeout SECONDS -- COMMAND...
#
# with a copy of DIR at /slipway and the packages of VM_RUN_PACKAGES installed.
# Without it nothing is run, and that is said. SLIPWAY_VM_FLAGS are more flags
# for it, SLIPWAY_VM_TIMEOUT is how long the parts may take.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${SLIPWAY_VM_RUN:-}" ]; then
	echo "test/vm: skipped: SLIPWAY_VM_RUN names no program that runs a command in a virtual machine"
	exit 0
fi
parts=("$@")
[ $# -gt 0 ] || parts=(packages daemon apparmor checkpoint streams powercut)
for part in "${parts[@]}"; do
	[ -x "test/vm/parts/$part.sh" ] || { echo "test/vm: no part $part" >&2; exit 2; }
done

# The packages whose tests part packages runs.
packages="linux runtime runtime/cgroup runtime/criu runtime/init runtime/netdev runtime/protocol runtime/rdt runtime/rootfs runtime/seccomp shim test/runtime"

stage=$(mktemp -d "${TMPDIR:-/tmp}/slipway-vm.XXXXXX")
trap 'rm -rf "$stage"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf - | tar -xf - -C "$stage"
make -s build install DESTDIR="$stage/tree" PREFIX=/usr >/dev/null
cp -a bin "$stage/"
install -D packaging/config.toml "$stage/tree/etc/containerd/config.toml"
mkdir -p "$stage/.cache/peers"
for peer in ctr runc containerd containerd-shim-runc-v2; do
	[ ! -x ".cache/peers/$peer" ] || cp ".cache/peers/$peer" "$stage/.cache/peers/"
done
case " ${parts[*]} " in *" packages "*)
	for p in $packages; do
		CGO_ENABLED=0 go test -c -tags embedinit -trimpath -o "$stage/$p/package.test" "./$p"
	done
	;;
esac

export VM_RUN_PACKAGES=${VM_RUN_PACKAGES:-criu,docker-registry,dmsetup}
# shellcheck disable=SC2086
"$SLIPWAY_VM_RUN" ${SLIPWAY_VM_FLAGS:-} -d "$stage:/slipway" -t "${SLIPWAY_VM_TIMEOUT:-3600}" --boot-timeout 600 \
	-- /slipway/test/vm/guest.sh "${parts[@]}"
