#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: rpm.sh VERSION: packs the built commands into dist/slipway-VERSION-1.ARCH.rpm.
set -eu
cd "$(dirname "$0")/.."
version=$1
command -v rpmbuild >/dev/null || { echo "rpm.sh: needs rpmbuild (package rpm or rpm-build)" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make -s install DESTDIR="$work/tree" PREFIX=/usr
install -d "$work/tree/etc/containerd" "$work/tree/usr/share/bash-completion/completions"
install -m 0644 packaging/config.toml "$work/tree/etc/containerd/config.toml"
bin/ctr completion bash >"$work/tree/usr/share/bash-completion/completions/ctr"

rpmbuild -bb --quiet --define "_topdir $work/rpm" --define "slipway_source $work/tree" \
	--define "slipway_version $version" --define "slipway_release 1" packaging/slipway.spec
mkdir -p dist
find "$work/rpm/RPMS" -name '*.rpm' -exec cp {} dist/ \;
ls dist/slipway-"$version"-1.*.rpm
