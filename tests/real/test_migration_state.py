"""A domain with real firmware and an emulated TPM takes their state along, live, saved and switched off."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command import Command
from tests.support.guest import Console

if TYPE_CHECKING:
    from tests.real.conftest import RealCluster

FIRMWARE = Path("/usr/share/OVMF")
MISSING = [
    package
    for package, there in (
        ("ovmf", (FIRMWARE / "OVMF_CODE_4M.fd").exists()),
        ("swtpm", shutil.which("swtpm") is not None),
        ("swtpm-tools", shutil.which("swtpm_setup") is not None),
    )
    if not there
]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(240),
]

TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
VARIABLES = "/sys/firmware/efi/efivars"
VARIABLE = f"{VARIABLES}/Kept-2b8a6f4e-6c41-4d1c-9d0a-5f1c9f0e7a11"
EXTEND = (
    b"\x80\x02\0\0\0\x41\0\0\x01\x82\0\0\0\x10\0\0\0\x09\x40\0\0\x09\0\0\0\0\0\0\0\0\x01\0\x0b" + b"A" * 32
)
"""TPM2_PCR_Extend of register 16, SHA-256, empty password (TCG library specification, part 3)."""
READ_CLOCK = b"\x80\x01\0\0\0\x0a\0\0\x01\x81"
EXTENDED = hashlib.sha256(bytes(32) + b"A" * 32).hexdigest().upper()


class Machine(Console):
    """The console of a guest with firmware and a TPM."""

    def mount(self) -> None:
        """Show the firmware's variables, once a boot."""
        self.run(f"mount -t efivarfs none {VARIABLES}")

    def write(self) -> None:
        """Leave a variable in the firmware (it lasts) and a measurement in the TPM (until its power goes)."""
        self.run(f"printf '\\007\\0\\0\\0kept' > {VARIABLE}; printf '{octal(EXTEND)}' > /dev/tpm0")

    @property
    def variable(self) -> str:
        """What `write` left in the firmware."""
        return self.run(f"tail -c 4 {VARIABLE}; echo")

    @property
    def measured(self) -> str:
        """Register 16 of the TPM in hex."""
        return self.run("cat /sys/class/tpm/tpm0/pcr-sha256/16")

    @property
    def resets(self) -> int:
        """How often the TPM was switched on in its life: resetCount of TPM2_ReadClock."""
        # By a file: printf ends a write at each newline, and the TPM takes a command in one.
        ask = f"printf '{octal(READ_CLOCK)}' > /ask; exec 3<>/dev/tpm0; cat /ask >&3; dd bs=64 count=1 <&3"
        answer = bytes.fromhex(self.run(f"{ask} 2>/dev/null | od -An -v -tx1; exec 3>&-"))
        return int.from_bytes(answer[26:30], "big")


def octal(data: bytes) -> str:
    """Bytes as printf reads them."""
    return "".join(f"\\{byte:03o}" for byte in data)


@pytest.fixture
def machine(cluster: RealCluster, tmp_path: Path) -> Iterator[Callable[[], Machine]]:
    """A domain that was started on n1, booted, and has something written into its firmware and its TPM."""
    firmware = (
        f"<loader readonly='yes' type='pflash'>{FIRMWARE}/OVMF_CODE_4M.fd</loader>"
        f"<nvram template='{FIRMWARE}/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/whole_VARS.fd</nvram>"
    )
    xml = cluster.xml("whole", machine="q35", memory_mib=160, devices=TPM)
    cluster.view("n1").define(xml.replace("</os>", f"{firmware}</os>"), tmp_path)
    try:
        cluster.virsh("start", "whole")
        with Machine(cluster.endpoint, "whole", seconds=60) as console:
            console.mount()
            console.write()
            assert (console.variable, console.measured) == ("kept", EXTENDED)
        yield lambda: Machine(cluster.endpoint, "whole", seconds=60)
    finally:
        cluster.virsh.run("destroy", "whole")
        cluster.virsh.run("undefine", "whole", "--managed-save", "--nvram", "--tpm")
    for node in cluster.nodes:
        assert left(cluster, node) == []


def left(cluster: RealCluster, node: str) -> list[str]:
    """Files of a definition that lie on a node."""
    home = cluster.state / "nodes" / node / "lib"
    parts = ("swtpm", "qemu/nvram", "qemu/save")
    return [path.name for part in parts for path in (home / part).rglob("*") if path.is_file()]


def test_a_live_migration_takes_firmware_and_tpm_along(
    cluster: RealCluster, machine: Callable[[], Machine]
) -> None:
    with machine() as console:
        resets = console.resets
    cluster.virsh(
        "migrate", "--live", "whole", cluster.view_uri("n2"), "--persistent", "--undefinesource", seconds=90
    )
    assert cluster.running_on("whole") == ["n2"]
    with machine() as console:
        assert (console.variable, console.measured, console.resets) == ("kept", EXTENDED, resets)
    cluster.virsh("migrate", "--live", "--p2p", "whole", cluster.view_uri("n3"), seconds=90)
    with machine() as console:
        assert (console.variable, console.measured, console.resets) == ("kept", EXTENDED, resets)
    cluster.virsh("destroy", "whole")
    cluster.virsh("start", "whole")
    assert cluster.running_on("whole") == ["n3"]
    with machine() as console:
        console.mount()
        assert (console.variable, console.resets) == ("kept", resets + 1)
    assert left(cluster, "n1") == left(cluster, "n2") == []


def test_a_start_elsewhere_takes_firmware_and_tpm_along(
    cluster: RealCluster, command: Command, machine: Callable[[], Machine]
) -> None:
    with machine() as console:
        resets = console.resets
    cluster.virsh("destroy", "whole")
    command("node", "disable", "n1")
    cluster.virsh("start", "whole")
    assert cluster.running_on("whole") != ["n1"]
    assert left(cluster, "n1") == []
    with machine() as console:
        console.mount()
        assert (console.variable, console.resets) == ("kept", resets + 1)


def test_a_managed_save_goes_on_elsewhere_with_firmware_and_tpm(
    cluster: RealCluster, command: Command, machine: Callable[[], Machine]
) -> None:
    with machine() as console:
        resets, count = console.resets, console.count()
    cluster.virsh("managedsave", "whole")
    command("node", "drain", "n1")
    assert left(cluster, "n1") == []
    assert cluster.virsh.names("--all", "--with-managed-save") == {"whole"}
    cluster.virsh("start", "whole")
    with machine() as console:
        assert (console.variable, console.measured, console.resets) == ("kept", EXTENDED, resets)
        assert console.count() > count
