#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The main job, end to end, in a scratch root that is gone afterwards:
# starts the daemon and a registry on loopback, makes a busybox image from
# Debian's package, pulls, tags, runs, lists, executes in, kills and removes.
# IMAGE=docker.io/library/busybox:latest uses a registry on the internet.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need busybox-static docker-registry skopeo runc ca-certificates jq
scratch=$(mktemp -d /tmp/slipway-quickstart.XXXXXX)
trap 'finish "$scratch"' EXIT
export PATH=$PWD/bin:$PATH

start_daemon "$scratch"
image=${IMAGE:-}
pull_flags=()
if [ -z "$image" ]; then
	start_registry "$scratch"
	busybox_image "$scratch/busybox"
	skopeo copy -q --insecure-policy --dest-tls-verify=false "oci:$scratch/busybox:latest" "docker://$REGISTRY/library/busybox:latest"
	image=$REGISTRY/library/busybox:latest
	pull_flags=(--plain-http)
fi

say() { # prints a command as typed, runs it
	printf '\n$ %s\n' "$*"
	"$@"
}

say ctr version
say ctr images pull "${pull_flags[@]}" "$image"
say ctr images list
say ctr i tag "$image" busybox:latest
say ctr i rm "$image"
say ctr run -d busybox:latest busybox
say ctr containers list
say ctr tasks ls
say ctr t exec --exec-id 1860 busybox ls
say ctr t exec --exec-id 1861 busybox sh -c 'echo hello from $(hostname); exit 0'
printf '\n$ echo hi | ctr run --rm busybox:latest pipe cat\n'
echo hi | ctr run --rm busybox:latest pipe cat
say ctr t kill -s SIGKILL busybox
for _ in $(seq 100); do [ "$(ctr t ls | awk '$1=="busybox"{print $3}')" = STOPPED ] && break; sleep 0.05; done
say ctr t ls
say ctr c rm busybox
say ctr c ls
say ctr i rm --sync busybox:latest
say ctr content ls
say ctr snapshots ls
printf '\nquickstart: done\n'
