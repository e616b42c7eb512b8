#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Cuts the power of the disk below the store in the middle of pulls, CUTS times
# (20), each at a random time within SPREAD seconds (3), and looks at what is
# there afterwards.
#
# The disk is a device-mapper table above a loop device: with the table "error"
# nothing that the kernel had not written yet reaches it any more (dmsetup(8)).
# The daemon is killed, the file system mounted again from what is on the disk,
# and the daemon's state directory emptied as by a boot. An image counts as
# acknowledged when `ctr images pull` has said so, before the cut or after it.
cd "$(dirname "$0")/../../.." || exit 2
. test/vm/lib.sh
cuts=${CUTS:-20}
RANDOM=${SEED:-1}
modprobe -a loop dm-mod overlay 2>/dev/null
scratch=/var/tmp/powercut
rm -rf $scratch
mkdir -p $scratch/{acknowledged,trees} /cut
dd if=/dev/zero of=$scratch/disk bs=1M count=1500 status=none
mke2fs -q -F -t ext4 $scratch/disk
loop=$(losetup -f --show $scratch/disk) || exit 1
sectors=$(blockdev --getsz "$loop")

start_registry $scratch || exit 1
images=(one two three four five six)

plug() { # the disk as it is, mounted, and the daemon on it
	dmsetup --noudevsync create cut --table "0 $sectors linear $loop 0" || return
	# The kernel makes this node; /dev/mapper's is udev's work.
	mount -t ext4 "/dev/dm-$(dmsetup info -c --noheadings -o minor cut)" /cut || { ls -l /dev/dm-* /dev/mapper; return 1; }
	rm -rf $scratch/state $scratch/s
	mkdir -p -m 0700 $scratch/s
	cat >$scratch/config.toml <<-TOML
		version = 4
		root = "/cut/root"
		state = "$scratch/state"
		[plugins."io.containerd.server.v1.grpc"]
		  address = "$scratch/containerd.sock"
		[plugins."io.containerd.server.v1.ttrpc"]
		  address = "$scratch/containerd.sock.ttrpc"
		[plugins."io.containerd.shim.v1.manager"]
		  socket_dir = "$scratch/s"
	TOML
	containerd --config $scratch/config.toml >>$scratch/containerd.log 2>&1 &
	DAEMON_PID=$!
	export CONTAINERD_ADDRESS=$scratch/containerd.sock
	until_so ctr version
}

unplug() { # the power is gone
	dmsetup suspend --noflush --nolockfs cut
	dmsetup load cut --table "0 $sectors error"
	dmsetup --noudevsync resume cut
}

pull_out() { # nothing uses the disk any more
	kill -9 "$DAEMON_PID" 2>/dev/null
	wait "$DAEMON_PID" 2>/dev/null
	wait "${pulls[@]}" 2>/dev/null
	awk '$5 ~ "^/cut/" { print $5 }' /proc/self/mountinfo | sort -r | xargs -r -n 1 umount -l
	until_so umount /cut
	until_so dmsetup --noudevsync remove cut
}

pull() { # an image, and say so when it is there
	ctr images pull --plain-http "$REGISTRY/$1:latest" >/dev/null 2>>$scratch/pulls.log && touch "$scratch/acknowledged/$1"
}

tree() { # the digest of an image's files; directories that no layer has get the time of their unpacking
	local dir
	dir=$(mktemp -d)
	ctr images mount "$REGISTRY/$1:latest" "$dir" >/dev/null &&
		tar -C "$dir" --sort=name --numeric-owner --mtime=@0 -cf - . | sha256sum | cut -d' ' -f1
	ctr images unmount --rm "$dir" >/dev/null
	rmdir "$dir" 2>/dev/null
}

# whole NAME: the image is listed with all of its blobs and unpacked, and its
# files are those of the first pull.
whole() {
	holds "/$1:latest .* complete .* true" ctr i check || return
	same "$(cat "$scratch/trees/$1")" tree "$1"
}

# blobs: everything that the content store lists has the digest that it is named by.
blobs() {
	local d
	for d in $(ctr content ls -q); do
		same "${d#sha256:}" sh -c "ctr content get $d | sha256sum | cut -d' ' -f1" || return
	done
}

plug || exit 1
# Images that share a layer and have three of their own.
busybox_image $scratch/busybox
base=$(jq -r '.layers[0].digest' "$scratch/busybox/blobs/sha256/$(jq -r '.manifests[0].digest' $scratch/busybox/index.json | cut -d: -f2)")
cp "$scratch/busybox/blobs/sha256/${base#sha256:}" $scratch/base.tgz
for image in "${images[@]}"; do
	layers=()
	for n in 1 2 3; do
		dir=$scratch/layer/$image/$n
		mkdir -p "$dir"
		head -c $((1000000 + RANDOM * 30)) /dev/urandom | split -b 50000 - "$dir/"
		tar -C $scratch/layer -cf - "$image/$n" | gzip -1 >"$scratch/$image-$n.tgz"
		layers+=("$scratch/$image-$n.tgz")
	done
	oci_layout "$scratch/oci-$image" latest '["sh"]' $scratch/base.tgz "${layers[@]}"
	tar -C "$scratch/oci-$image" -cf "$scratch/$image.tar" .
	claim "image $image is pushed" sh -c "ctr i import --no-unpack --base-name $REGISTRY/$image $scratch/$image.tar && ctr i push --plain-http $REGISTRY/$image:latest && ctr i rm --sync $REGISTRY/$image:latest"
	rm -rf "$scratch/layer" "$scratch/oci-$image" "$scratch/$image"*.t*
done
for image in "${images[@]}"; do
	claim "image $image is pulled" pull "$image"
	tree "$image" >"$scratch/trees/$image"
done

middle=0
for cut in $(seq "$cuts"); do
	for image in "${images[@]}"; do # half of them are to be pulled again
		[ $((RANDOM % 2)) = 0 ] || [ ! -e "$scratch/acknowledged/$image" ] || {
			rm "$scratch/acknowledged/$image"
			ctr i rm --sync "$REGISTRY/$image:latest" >/dev/null
		}
	done
	pulls=()
	for image in "${images[@]}"; do
		[ -e "$scratch/acknowledged/$image" ] || { pull "$image" & pulls+=($!); }
	done
	sleep "$(printf '%d.%03d' $((RANDOM % ${SPREAD:-3})) $((RANDOM % 1000)))"
	[ -z "$(jobs -rp | grep -vxE "$DAEMON_PID|${REGISTRY_PID}")" ] || middle=$((middle + 1))
	unplug
	pull_out
	plug || exit 1 # not in the shell of a claim: it sets DAEMON_PID
	claim "cut $cut: the store opens" ctr version
	for image in $(ls $scratch/acknowledged); do
		claim "cut $cut: $image is whole" whole "$image"
	done
	claim "cut $cut: every blob is what its name says" blobs
	[ $((cut % 5)) = 0 ] || [ "$cut" = "$cuts" ] || continue
	for image in "${images[@]}"; do
		[ -e "$scratch/acknowledged/$image" ] || claim "cut $cut: $image can be pulled again" pull "$image"
		claim "cut $cut: it is whole then" whole "$image"
	done
done
claim "a container runs from it" same hi ctr run --rm "$REGISTRY/one:latest" last echo hi
echo "$cuts cuts, $middle of them while pulls went on"
kill "$DAEMON_PID" && wait "$DAEMON_PID"
kill "$REGISTRY_PID"
umount /cut && dmsetup --noudevsync remove cut
losetup -d "$loop"
if [ $broken -ne 0 ]; then tail -40 $scratch/containerd.log; tail -20 $scratch/pulls.log; fi
done_with powercut
