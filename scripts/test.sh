#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every test: unit tests first, then those under test/, which start the
# built commands as root.
set -eu
cd "$(dirname "$0")/.."
go vet ./...
exec go test -timeout 30m -p 2 ./...
