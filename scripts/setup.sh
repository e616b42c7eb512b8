#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests and benchmarks use: Debian packages, and the peers
# (containerd 2.3.4 with its client and shim) into .cache/peers. Does nothing
# for what is there already.
set -eu
cd "$(dirname "$0")/.."

packages="busybox-static docker-registry skopeo umoci runc crun debootstrap containernetworking-plugins jq ca-certificates"
missing=""
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $p"
done
if [ -n "$missing" ]; then
	echo "setup: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# docker-registry's package would start a server of its own: policy-rc.d
	# is not ours to change, so it is told not to by the environment.
	RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

peers=$PWD/.cache/peers
if [ ! -x "$peers/containerd-shim-runc-v2" ]; then
	echo "setup: building the peers into $peers"
	mkdir -p "$peers"
	GOBIN=$peers GOFLAGS=-buildvcs=false go install \
		github.com/containerd/containerd/v2/cmd/ctr@v2.3.4 \
		github.com/containerd/containerd/v2/cmd/containerd@v2.3.4 \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.3.4
fi
