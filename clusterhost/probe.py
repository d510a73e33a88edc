"""Find out whether a guest really runs under KVM here.  Knows no libvirt."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from pathlib import Path

QEMU = "qemu-system-x86_64"
SIGN_OF_LIFE = b"Linux version"


def kvm_opens(path: str = "/dev/kvm") -> bool:
    """The device is there and may be opened, which does not yet mean that a guest runs."""
    return os.access(path, os.R_OK | os.W_OK)


def kernel(boot: Path = Path("/boot")) -> Path | None:
    """A kernel of this machine to boot, None when there is none that may be read."""
    readable = [path for path in boot.glob("vmlinuz-*") if os.access(path, os.R_OK)]
    return max(readable, default=None)


def kvm_runs(seconds: float = 5.0, boot: Path = Path("/boot")) -> bool | None:
    """A Linux kernel prints its first line under KVM within that time; None when it cannot be tried.

    On some machines the device opens, and even real-mode code runs, but a kernel never says a word.
    """
    if not kvm_opens():
        return False
    image = kernel(boot)
    if image is None or shutil.which(QEMU) is None:
        return None
    command = [QEMU, "-nodefaults", "-display", "none", "-machine", "pc,accel=kvm", "-m", "128", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", str(image)]
    command += ["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            return speaks(process, time.monotonic() + seconds, SIGN_OF_LIFE)
        finally:
            process.kill()


def speaks(process: subprocess.Popen[bytes], deadline: float, sign: bytes) -> bool:
    """The process prints `sign` before that moment of the monotonic clock."""
    assert process.stdout is not None
    seen = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            return False
        data = os.read(process.stdout.fileno(), 4096)
        seen += data
        if sign in seen:
            return True
        if not data:
            return False
    return False
