#!/bin/sh
# Install what clusterhost, its demo and its tests need: OS packages and .venv.  Quick when nothing is missing.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="busybox-static dnsmasq-base gcc git iproute2 iputils-ping kmod libc6-dev libvirt-clients
libvirt-daemon-system libvirt-dev linux-image-cloud-amd64 make nftables openssh-client openssh-server
openssl pkg-config postgresql procps python3-dev python3-venv qemu-system-x86 qemu-utils socat tmux"
# Tests that need one of these say so and skip without it.
OPTIONAL="bind9 bind9-dnsutils e2fsprogs isc-dhcp-client libvirt-daemon-driver-storage-iscsi-direct lvm2 open-iscsi ovmf
parted qemu-block-extra swtpm swtpm-tools tgt virtinst xfsprogs xorriso"
COMMANDS="busybox dnsmasq gcc git ip kmod libvirtd make nft openssl ping pkg-config postgres ps qemu-img
qemu-system-x86_64 socat ssh sshd tmux unshare virsh"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing_packages() {
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | sed -n 's/ installed$//p')
    for package in "$@"; do
        printf '%s\n' "$installed" | grep -qxF "$package" || printf '%s ' "$package"
    done
}

missing_commands() {
    PATH="$PATH:/usr/sbin:/sbin"
    for command in $COMMANDS; do
        command -v "$command" >/dev/null 2>&1 || printf '%s ' "$command"
    done
}

# A package that is only being installed must not start its service: the demo brings its own libvirtd.
apt_install() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086  # a list of names
    apt-get install -q -y --no-install-recommends "$@"
}

packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        missing=$(missing_commands)
        [ -z "$missing" ] || die "not a Debian system, and these commands are missing: ${missing}(install the packages that hold them)"
        return
    fi
    # shellcheck disable=SC2086  # lists of names
    missing=$(missing_packages $PACKAGES) optional=$(missing_packages $OPTIONAL)
    [ -n "$missing$optional" ] || return 0
    if [ "$(id -u)" -ne 0 ] && [ -z "$missing" ]; then
        say "left out: $optional"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        die "missing packages, and only root can install them: apt-get install --no-install-recommends $missing"
    fi
    say "installing $missing$optional"
    # shellcheck disable=SC2086
    apt_install $missing $optional && return
    say "installing without $optional"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || apt_install $missing
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    die "no python3 of at least 3.11 with its venv module was found; name one with PYTHON=..."
}

environment() {
    wanted=$(cat pyproject.toml constraints.txt tools/setup.sh | cksum)
    stamp=.venv/setup-stamp
    if [ -x .venv/bin/clusterhost ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python)
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    say "installing Python packages into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        --editable '.[speed,postgresql,test,check]'
    .venv/bin/clusterhost --help >/dev/null || die ".venv/bin/clusterhost does not start"
    printf '%s\n' "$wanted" >"$stamp"
}

packages
environment
