#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A Debian root file system doing real work, in a scratch root that is gone
# afterwards: made by debootstrap from this machine's own mirror, pushed to a
# registry on loopback, pulled, run; packages installed by apt-get over the
# host's network, a web service asked from outside, and a file of 1 GB (SIZE_MB)
# copied through stdin and stdout.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need busybox-static docker-registry skopeo runc ca-certificates jq debootstrap curl
scratch=$(mktemp -d /tmp/slipway-debian.XXXXXX)
trap 'finish "$scratch"' EXIT
export PATH=$PWD/bin:$PATH

say() { # prints a command as typed, runs it
	printf '\n$ %s\n' "$*"
	"$@"
}

suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' | awk -v s="$suite" '$2 == s {print $1; exit}')
debootstrap --variant=minbase "$suite" "$scratch/debian" "$mirror" >"$scratch/debootstrap.log" || { tail "$scratch/debootstrap.log"; exit 1; }
tar -C "$scratch/debian" --numeric-owner --xattrs -cf - . | gzip -1 >"$scratch/debian.tgz"
rm -rf "$scratch/debian"
oci_layout "$scratch/layout" latest '["bash"]' "$scratch/debian.tgz"

start_daemon "$scratch"
start_registry "$scratch"
skopeo copy -q --insecure-policy --dest-tls-verify=false "oci:$scratch/layout:latest" "docker://$REGISTRY/library/debian:latest"
rm -rf "$scratch/layout" "$scratch/debian.tgz"
image=$REGISTRY/library/debian:latest

say ctr images pull --plain-http "$image"
say ctr run -d --net-host "$image" work sleep infinity
say ctr t exec --exec-id update work apt-get update -qq
say ctr t exec --exec-id install work env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends lighttpd
port=$(free_port)
ctr t exec --exec-id setup work sh -c "mkdir -p /srv && echo served from a container >/srv/index.html &&
	printf 'server.document-root = \"/srv\"\nserver.bind = \"127.0.0.1\"\nserver.port = $port\nindex-file.names = ( \"index.html\" )\n' >/srv/lighttpd.conf"
say ctr t exec -d --fifo-dir "$scratch/fifo" --exec-id httpd work lighttpd -D -f /srv/lighttpd.conf
wait_for 30 curl -fsS "http://127.0.0.1:$port/"
say curl -fsS "http://127.0.0.1:$port/"
say ctr t rm -f work
say ctr c rm work

printf '\n$ ctr run --rm %s copy cat <big >copy\n' "$image"
head -c "$((${SIZE_MB:-1024} << 20))" /dev/urandom >"$scratch/big"
ctr run --rm "$image" copy cat <"$scratch/big" >"$scratch/copy"
say cmp "$scratch/big" "$scratch/copy"
printf '\ndebian: done\n'
