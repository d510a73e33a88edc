"""The demo guest: prepare its kernel and initrd, tell whether KVM runs it, write its domain XML."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from clusterhost.demo import initrd
from clusterhost.probe import speaks

QEMU = "qemu-system-x86_64"
PROBE_SECONDS = 4.0
_COMMAND_LINE = "console=ttyS0 quiet panic=1 net.ifnames=0"


@dataclass(frozen=True)
class Guest:
    """What a domain of the demo boots: files seen at the same path on every node, and the domain type."""

    kernel: Path
    initrd: Path
    domain_type: str

    def domain_xml(
        self,
        name: str,
        *,
        memory_mib: int = 96,
        vcpus: int = 1,
        max_vcpus: int | None = None,
        disk: Path | None = None,
        network: str | None = None,
        uuid: str | None = None,
        machine: str = "pc",
        metadata: str = "",
        devices: str = "",
    ) -> str:
        """Return the XML of a domain that boots this guest with a serial console.

        `disk` is a qcow2 image shown as vda, `network` a libvirt network's name; `metadata` and `devices` are
        XML put inside the elements of these names.
        """
        identity = f"<uuid>{uuid}</uuid>" if uuid else ""
        return f"""<domain type='{self.domain_type}'>
  <name>{name}</name>{identity}
  <metadata>{metadata}</metadata>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu placement='static' current='{vcpus}'>{max_vcpus or vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{self.kernel}</kernel>
    <initrd>{self.initrd}</initrd>
    <cmdline>{_COMMAND_LINE}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/{QEMU}</emulator>
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <memballoon model='virtio'/>{_root_ports(machine)}{_disk(disk)}{_interface(network)}
    {devices}
  </devices>
</domain>
"""


def prepare(directory: Path) -> Guest:
    """Make DIRECTORY/{vmlinuz,initrd} unless they are fresh, probe for KVM once; raises GuestPartsMissing."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise initrd.GuestPartsMissing("busybox is not installed: install busybox-static")
    if shutil.which(QEMU) is None:
        raise initrd.GuestPartsMissing(f"{QEMU} is not installed: install qemu-system-x86")
    kernel = initrd.newest_kernel()
    directory.mkdir(parents=True, exist_ok=True)
    _write_if_changed(directory / "vmlinuz", kernel.image.read_bytes())
    _write_if_changed(directory / "initrd", initrd.build(kernel, Path(busybox)))
    return load(directory)


def load(directory: Path) -> Guest:
    """Return the guest that `prepare` made in DIRECTORY; the answer of the probe is kept beside it."""
    answer = directory / "domain-type"
    if not answer.exists():
        _write_if_changed(answer, probe(directory / "vmlinuz", directory / "initrd").encode())
    return Guest(directory / "vmlinuz", directory / "initrd", answer.read_text())


def probe(kernel: Path, initial: Path, seconds: float = PROBE_SECONDS) -> str:
    """Return "kvm" when a guest under KVM counts within `seconds`, else "qemu".

    On some machines /dev/kvm opens and answers, but a guest never runs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "qemu"
    command = [QEMU, "-nodefaults", "-display", "none", "-machine", "pc,accel=kvm", "-m", "96", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initial), "-append", _COMMAND_LINE]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            return "kvm" if speaks(process, time.monotonic() + seconds, b"count 1") else "qemu"
        finally:
            process.kill()


def _write_if_changed(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.replace(path)


def _root_ports(machine: str) -> str:
    """A q35 machine hot-plugs only into root ports, and libvirt adds just one spare port by itself."""
    if "q35" not in machine:
        return ""
    return "<controller type='pci' index='0' model='pcie-root'/>" + (
        "<controller type='pci' model='pcie-root-port'/>" * 12
    )


def _disk(path: Path | None) -> str:
    if path is None:
        return ""
    return f"""
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
      <source file={quoteattr(str(path))}/><target dev='vda' bus='virtio'/></disk>"""


def _interface(network: str | None) -> str:
    if network is None:
        return ""
    source = f"<source network={quoteattr(network)}/>"
    return f"<interface type='network'>{source}<model type='virtio'/></interface>"
