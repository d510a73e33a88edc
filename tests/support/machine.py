"""What this machine offers to the tests: a phrase each for the report's header."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterhost.probe import kvm_runs


def met(cache: pytest.Cache | None) -> Iterator[str]:
    """`libvirtd 9.0.0`, `virsh 9.0.0`, `qemu 7.2.0 tcg`, `netns`, ...; `no NAME` for what is missing."""
    for label, command in (
        ("libvirtd", ("libvirtd", "--version")),
        ("virsh", ("virsh", "--version")),
        ("qemu", ("qemu-system-x86_64", "--version")),
        ("postgresql", ("psql", "--version")),
    ):
        yield _version(label, command) + (f" {_accelerator(cache)}" if label == "qemu" else "")
    yield "netns" if _succeeds("unshare", "--net", "true") else "no netns"


def _version(label: str, command: tuple[str, ...]) -> str:
    path = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    if path is None:
        return f"no {label}"
    output = subprocess.run([path, *command[1:]], capture_output=True, text=True).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", output)
    return f"{label} {found.group() if found else 'of unknown version'}"


def _accelerator(cache: pytest.Cache | None) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache.get("clusterhost/accelerator", None) if cache else None
    if not known or known[0] != boot:
        known = [boot, "kvm" if kvm_runs() else "tcg"]
        if cache:
            cache.set("clusterhost/accelerator", known)
    return str(known[1])


def _succeeds(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0
    )
