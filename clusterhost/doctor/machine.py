"""Checks of the machine that a node runs on: KVM, clock, bridges, services in the way.  Knows no wire."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from clusterhost import probe
from clusterhost.doctor.finding import Finding, bad, good, warning

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 256  # struct timex with room to spare


def check_machine(migration_address: str) -> Iterator[Finding]:
    """All checks of this machine, in the order in which an operator would mend them."""
    yield _qemu()
    yield _kvm()
    yield _clock()
    yield _bridge()
    yield _address(migration_address)
    yield _guests_service()
    yield _locks(Path("/etc/libvirt/qemu.conf"))


def _qemu() -> Finding:
    path = shutil.which(probe.QEMU)
    if path is None:
        return bad("qemu", f"{probe.QEMU} is not installed", "apt-get install qemu-system-x86")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.splitlines()
    return good("qemu", version[0] if version else path)


def _kvm() -> Finding:
    if not Path("/dev/kvm").exists():
        mend = "switch virtualisation on in the firmware, or live with slow domains of type qemu"
        return warning("kvm", "there is no /dev/kvm", mend)
    if not probe.kvm_opens():
        return warning(
            "kvm", "/dev/kvm cannot be opened", "run as root, or check the permissions of /dev/kvm"
        )
    runs = probe.kvm_runs()
    if runs is None:
        return good("kvm", "/dev/kvm opens; no kernel at hand to see whether a guest runs")
    if not runs:
        mend = "use domains of type qemu here; nested virtualisation of the machine below is at fault"
        return warning("kvm", "/dev/kvm opens, but a guest says nothing", mend)
    return good("kvm", "a guest runs under KVM")


def _clock() -> Finding:
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        mend = "run a time service such as chrony: guests see the node's clock when they move"
        return warning("clock", "the clock is not synchronised", mend)
    return good("clock", "the clock is synchronised")


def _bridge() -> Finding:
    release = Path("/lib/modules") / os.uname().release
    listed = [release / "modules.dep", release / "modules.builtin"]
    known = any("/bridge/bridge.ko" in path.read_text() for path in listed if path.is_file())
    if known or Path("/sys/module/bridge").exists():
        return good("bridge", "the kernel has bridges")
    return warning("bridge", "no bridge module for this kernel", "install the kernel's full set of modules")


def _address(migration_address: str) -> Finding:
    name = migration_address or socket.gethostname()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError as error:
        mend = "set migration_address in agent.toml to an address that other nodes reach"
        return bad("migration address", f"{name} has no address: {error.strerror}", mend)
    local = [address for address in found if address.startswith("127.") or address == "::1"]
    if local:
        mend = "set migration_address in agent.toml to an address that other nodes reach"
        return bad("migration address", f"{name} means {local[0]}, where other nodes reach themselves", mend)
    return good("migration address", f"{name} is {', '.join(sorted(found))}")


def _guests_service() -> Finding:
    if shutil.which("systemctl") is None:
        return good("libvirt-guests", "no systemd here")
    ended = subprocess.run(["systemctl", "is-enabled", "libvirt-guests"], capture_output=True, text=True)
    if ended.stdout.strip() == "enabled":
        mend = "systemctl disable --now libvirt-guests, and set autostart through the cluster"
        return warning("libvirt-guests", "it resumes guests by itself after a power cut", mend)
    return good("libvirt-guests", "not enabled")


def _locks(configuration: Path) -> Finding:
    text = configuration.read_text() if os.access(configuration, os.R_OK) else ""
    found = re.search(r'^\s*lock_manager\s*=\s*"(\w+)"', text, re.MULTILINE)
    if found is None:
        mend = 'set lock_manager = "lockd" in qemu.conf where disks are shared between nodes'
        return warning("lock manager", "nothing locks disks against a second writer", mend)
    return good("lock manager", found.group(1))
