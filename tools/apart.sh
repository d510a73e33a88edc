#!/bin/sh
# Run a command with network, mounts and named namespaces of its own: test workers do not see what others make.
# Without root it runs as it is: nothing is made then that others could see.
set -eu
[ "$(id -u)" -eq 0 ] || exec "$@"
mkdir -p /run/netns
# shellcheck disable=SC2016  # for the inner shell
exec unshare --mount --net sh -euc 'mount -t tmpfs tmpfs /run/netns; ip link set lo up; exec "$@"' apart "$@"
