#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests and benchmarks use: Debian packages, the peers
# (containerd 2.3.4 with its client and shim, runc 1.5.1, BuildKit, nerdctl) into
# .cache/peers, and the commands of Debian's own containerd and docker.io, unpacked but not
# installed, into .cache/debian and .cache/docker. Does nothing for what is there already.
set -eu
cd "$(dirname "$0")/.."

packages="busybox-static docker-registry skopeo umoci runc crun debootstrap curl containernetworking-plugins iptables jq ca-certificates
	erofs-utils btrfs-progs e2fsprogs util-linux gcc libc6-dev libseccomp-dev pkg-config rpm cpio podman conmon libdevmapper1.02.1 isal"
missing=""
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $p"
done
if [ -n "$missing" ]; then
	echo "setup: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# docker-registry's package would start a server of its own: it is told
	# not to by the environment.
	RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

peers=$PWD/.cache/peers
mkdir -p "$peers"
if [ ! -x "$peers/containerd-shim-runc-v2" ]; then
	echo "setup: building containerd 2.3.4 into $peers"
	# With cgo, as it is shipped: without, it has no btrfs snapshotter.
	CGO_ENABLED=1 GOBIN=$peers GOFLAGS=-buildvcs=false go install \
		github.com/containerd/containerd/v2/cmd/ctr@v2.3.4 \
		github.com/containerd/containerd/v2/cmd/containerd@v2.3.4 \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.3.4
fi
if [ ! -x "$peers/runc" ]; then
	echo "setup: building runc 1.5.1 into $peers"
	CGO_ENABLED=1 GOBIN=$peers GOFLAGS=-buildvcs=false go install -tags seccomp github.com/opencontainers/runc@v1.5.1
fi
if [ ! -x "$peers/buildctl" ]; then
	echo "setup: building BuildKit into $peers"
	(cd test/clients/buildkit && go build -trimpath -o "$peers/" github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl)
fi

# nerdctl's program, which some proxies and the checksum database do not have: its
# tests are skipped without. Its sources are checked against the sum below, and
# all they need against the go.sum among them. What is only for its own tests
# needs a module that is not published, and goes.
nerdctl=github.com/containerd/nerdctl/v2@v2.3.1
nerdctl_sum=h1:Jbfp+TZfTI2rgGyx/dyI5TxIkvv1jVlmFRb761a29YU=
build_nerdctl() (
	GONOSUMDB=github.com/containerd/nerdctl/v2 go mod download -json "$nerdctl" >"$1/module" &&
		grep -q "\"Sum\": \"$nerdctl_sum\"" "$1/module" &&
		cp -r "$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' "$1/module")" "$1/src" && chmod -R u+w "$1/src" && cd "$1/src" &&
		rm cmd/nerdctl/helpers/testing_linux.go && mkdir -p mod/tigron && echo "module github.com/containerd/nerdctl/mod/tigron" >mod/tigron/go.mod &&
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$peers/" ./cmd/nerdctl
)
if [ ! -x "$peers/nerdctl" ]; then
	echo "setup: building nerdctl into $peers"
	work=$(mktemp -d)
	build_nerdctl "$work" || echo "setup: no nerdctl: tests of it will be skipped" >&2
	rm -rf "$work"
fi

debian=$PWD/.cache/debian
if [ ! -x "$debian/usr/bin/ctr" ]; then
	echo "setup: unpacking Debian's containerd into $debian"
	mkdir -p "$debian"
	(cd "$debian" && apt-get -o APT::Sandbox::User=root download -qq containerd && for p in *.deb; do dpkg-deb -x "$p" .; rm "$p"; done)
fi

docker=$PWD/.cache/docker
if [ ! -x "$docker/usr/sbin/dockerd" ]; then
	echo "setup: unpacking Debian's docker.io into $docker"
	mkdir -p "$docker"
	(cd "$docker" && apt-get -o APT::Sandbox::User=root download -qq docker.io tini && for p in *.deb; do dpkg-deb -x "$p" .; rm "$p"; done)
fi
