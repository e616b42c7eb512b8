# SPDX-License-Identifier: Apache-2.0
# Functions of the scripts: what a scratch containerd and a scratch registry
# need. Sourced, not run.

# need PACKAGE...: installs the Debian packages that are missing.
need() {
	local p missing=()
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return
	echo "installing ${missing[*]}"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# free_port: a TCP port of 127.0.0.1 that nobody listens on.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 20000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "gave up waiting for: $*" >&2; return 1; }
		sleep 0.05
	done
}

# start_daemon DIR: containerd with root, state and sockets in DIR; sets
# CONTAINERD_ADDRESS and DAEMON_PID.
start_daemon() {
	local dir=$1
	cat >"$dir/config.toml" <<-EOF
		version = 4
		root = "$dir/root"
		state = "$dir/state"
		[plugins."io.containerd.server.v1.grpc"]
		  address = "$dir/containerd.sock"
		[plugins."io.containerd.server.v1.ttrpc"]
		  address = "$dir/containerd.sock.ttrpc"
		[plugins."io.containerd.shim.v1.manager"]
		  socket_dir = "$dir/s"
	EOF
	mkdir -p -m 0700 "$dir/s"
	containerd --config "$dir/config.toml" >"$dir/containerd.log" 2>&1 &
	DAEMON_PID=$!
	export CONTAINERD_ADDRESS=$dir/containerd.sock
	wait_for "${SLIPWAY_PATIENCE:-30}" ctr version || { cat "$dir/containerd.log" >&2; return 1; }
}

# start_registry DIR: Debian's docker-registry on loopback; sets REGISTRY and
# REGISTRY_PID.
start_registry() {
	local dir=$1 port
	port=$(free_port)
	mkdir -p "$dir/registry"
	cat >"$dir/registry.yml" <<-EOF
		version: 0.1
		storage: {filesystem: {rootdirectory: $dir/registry}, delete: {enabled: true}}
		http: {addr: "127.0.0.1:$port"}
	EOF
	docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
	REGISTRY_PID=$!
	REGISTRY=127.0.0.1:$port
	wait_for "${SLIPWAY_PATIENCE:-30}" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" || { cat "$dir/registry.log" >&2; return 1; }
}

# busybox_image DIR: an OCI layout with Debian's static busybox, tag latest.
busybox_image() {
	local dir=$1 root
	root=$(mktemp -d)
	mkdir -p "$root"/{bin,etc,root,tmp,proc,sys,dev}
	chmod 1777 "$root/tmp"
	cp /bin/busybox "$root/bin/busybox"
	busybox --list | while read -r name; do
		[ "$name" = busybox ] || ln -s busybox "$root/bin/$name"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	echo 'root:x:0:' >"$root/etc/group"
	tar -C "$root" --numeric-owner --owner=0 --group=0 -czf "$root.tgz" .
	oci_layout "$dir" latest '["sh"]' "$root.tgz" "$root"
	rm -rf "$root" "$root.tgz"
}

# oci_layout DIR TAG CMD-JSON LAYER.tgz...: writes an OCI image layout. A last
# argument that is a directory is ignored.
oci_layout() {
	local dir=$1 tag=$2 cmd=$3 layers='[]' diffs='[]' f size hex arch
	shift 3
	arch=$(dpkg --print-architecture)
	mkdir -p "$dir/blobs/sha256"
	for f in "$@"; do
		[ -f "$f" ] || continue
		hex=$(sha256sum <"$f" | cut -d' ' -f1)
		size=$(stat -c %s "$f")
		cp "$f" "$dir/blobs/sha256/$hex"
		layers=$(jq -c --arg d "sha256:$hex" --argjson s "$size" '. + [{mediaType:"application/vnd.oci.image.layer.v1.tar+gzip",digest:$d,size:$s}]' <<<"$layers")
		diffs=$(jq -c --arg d "sha256:$(gzip -dc "$f" | sha256sum | cut -d' ' -f1)" '. + [$d]' <<<"$diffs")
	done
	local config manifest
	config=$(jq -cn --arg a "$arch" --argjson c "$cmd" --argjson d "$diffs" '{architecture:$a,os:"linux",config:{Env:["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],Cmd:$c},rootfs:{type:"layers",diff_ids:$d}}')
	config=$(put_blob "$dir" "$config" application/vnd.oci.image.config.v1+json)
	manifest=$(jq -cn --argjson c "$config" --argjson l "$layers" '{schemaVersion:2,mediaType:"application/vnd.oci.image.manifest.v1+json",config:$c,layers:$l}')
	manifest=$(put_blob "$dir" "$manifest" application/vnd.oci.image.manifest.v1+json)
	echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
	jq -cn --argjson m "$manifest" --arg t "$tag" '{schemaVersion:2,manifests:[$m + {annotations:{"org.opencontainers.image.ref.name":$t}}]}' >"$dir/index.json"
}

# put_blob DIR TEXT MEDIATYPE: stores a blob, prints its descriptor.
put_blob() {
	local hex
	hex=$(printf %s "$2" | sha256sum | cut -d' ' -f1)
	printf %s "$2" >"$1/blobs/sha256/$hex"
	jq -cn --arg m "$3" --arg d "sha256:$hex" --argjson s "$(printf %s "$2" | wc -c)" '{mediaType:$m,digest:$d,size:$s}'
}

# finish DIR: ends what start_daemon and start_registry began, tasks included,
# and removes DIR. The status of the script stays.
finish() {
	local status=$? dir=$1 ns id
	set +e
	if [ -n "${DAEMON_PID:-}" ]; then
		for id in $(ctr t ls -q 2>/dev/null); do ctr t rm -f "$id" >/dev/null 2>&1; done
		for id in $(ctr c ls -q 2>/dev/null); do ctr c rm "$id" >/dev/null 2>&1; done
		kill "$DAEMON_PID" && wait "$DAEMON_PID"
	fi
	[ -z "${REGISTRY_PID:-}" ] || { kill "$REGISTRY_PID"; wait "$REGISTRY_PID"; } 2>/dev/null
	[ $status -eq 0 ] || { echo "--- daemon's log" >&2; tail -50 "$dir/containerd.log" >&2; }
	grep -q " $dir" /proc/self/mountinfo && { echo "mounts left below $dir" >&2; status=1; }
	rm -rf "$dir"
	exit $status
}
