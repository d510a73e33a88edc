"""A program that hears all events of a domain while it does all that makes events: `python -m ... URI DOMAIN DIR`.

Prints one line of JSON for each event, in the order of arrival.  The domain must be defined with what DEVICES says.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from tests.support.programs import Terminal, loop_in_thread, until

DEVICES = """<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/><video><model type='cirrus'/></video>
<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"""
CD = "<disk type='file' device='cdrom'><source file='{}'/><target dev='hda' bus='ide'/><readonly/></disk>"
DISK = "<disk type='file'><source file='{}'/><target dev='vdb' bus='virtio'/></disk>"
IDS = {
    name.removeprefix("VIR_DOMAIN_EVENT_ID_"): getattr(libvirt, name)
    for name in sorted(dir(libvirt))
    if name.startswith("VIR_DOMAIN_EVENT_ID_")
}
LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE


class Hearer:
    """Callbacks for every id, and the oldest form of registration."""

    def __init__(self, connection: libvirt.virConnect, domain: libvirt.virDomain) -> None:
        self.heard: list[tuple[str, list[Any]]] = []
        self._connection = connection
        self._numbers = [
            connection.domainEventRegisterAny(domain, number, self._take, name)
            for name, number in IDS.items()
        ]
        connection.domainEventRegister(self._take, "legacy")

    def _take(self, connection: libvirt.virConnect, domain: libvirt.virDomain, *rest: Any) -> None:
        *args, name = rest
        self.heard.append((name, [domain.name(), domain.UUIDString(), *args]))

    def wait(self, name: str, *first: int) -> None:
        """Until an event came with these first arguments."""
        if not until(lambda: any(n == name and a[2 : 2 + len(first)] == [*first] for n, a in self.heard), 15):
            print(json.dumps(["not heard", name, *first]), flush=True)

    def close(self) -> None:
        for number in self._numbers:
            self._connection.domainEventDeregisterAny(number)
        self._connection.domainEventDeregister(self._take)


class Afternoon:
    """What is done to the domain; every step waits for what it causes."""

    def __init__(self, uri: str, name: str, directory: Path) -> None:
        self.connection = libvirt.open(uri)
        self.domain = self.connection.lookupByName(name)
        self.directory = directory
        self.hearer = Hearer(self.connection, self.domain)

    def guest(self, command: str) -> None:
        """Type into the guest's shell and wait until it is done."""
        stream = self.connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self.domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        terminal = Terminal(stream)
        until(lambda: b"count " in terminal.seen)
        terminal.type(f"{command}\necho do''ne\n".encode())
        until(lambda: b"done" in terminal.seen, 10)
        stream.eventRemoveCallback()
        stream.finish()

    def life(self) -> None:
        self.domain.create()
        self.hearer.wait("LIFECYCLE", libvirt.VIR_DOMAIN_EVENT_STARTED)
        self.domain.suspend()
        self.domain.resume()
        self.hearer.wait("LIFECYCLE", libvirt.VIR_DOMAIN_EVENT_RESUMED, 0)

    def devices(self) -> None:
        self.guest("true")
        disk = DISK.format(self.directory / "b.raw")
        self.domain.attachDeviceFlags(disk, LIVE)
        self.guest("sleep 1")
        self.domain.detachDeviceFlags(disk, LIVE)
        self.hearer.wait("DEVICE_REMOVED")
        self.domain.updateDeviceFlags(CD.format(self.directory / "cd.iso"), LIVE)
        self.hearer.wait("TRAY_CHANGE")
        self.domain.blockResize("vda", 32 << 20, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    def tuning(self) -> None:
        self.domain.setMemoryFlags(80 << 10, LIVE)
        self.hearer.wait("BALLOON_CHANGE")
        self.domain.setBlockIoTune("vda", {"total_bytes_sec": 100 << 20}, LIVE)
        self.hearer.wait("TUNABLE")
        self.domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "A title", None, None, LIVE)
        self.domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "<note/>", "n", "urn:n", LIVE)
        self.hearer.wait("METADATA_CHANGE", libvirt.VIR_DOMAIN_METADATA_ELEMENT)

    def in_the_guest(self) -> None:
        self.domain.setBlockThreshold("vda", 1 << 20, 0)
        self.guest("dd if=/dev/urandom of=/dev/vda bs=1M count=4 oflag=direct conv=fsync")
        self.hearer.wait("BLOCK_THRESHOLD")
        self.guest("date -s 2030-01-01; hwclock -w")
        self.hearer.wait("RTC_CHANGE")
        self.guest("exec 7<>/dev/vport0p1; sleep 1")
        self.hearer.wait("AGENT_LIFECYCLE", 1)
        self.guest("(sleep 1; echo mem >/sys/power/state) &")
        self.hearer.wait("PMSUSPEND")
        self.domain.pMWakeup(0)
        self.hearer.wait("PMWAKEUP")

    def jobs(self) -> None:
        copy = f"<disk type='file'><source file='{self.directory}/copy.qcow2'/><driver type='qcow2'/></disk>"
        self.domain.blockCopy("vda", copy, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
        self.hearer.wait("BLOCK_JOB", str(self.directory / "a.qcow2"))  # type: ignore[arg-type]
        until(
            lambda: self.domain.blockJobInfo("vda").get("cur") == self.domain.blockJobInfo("vda").get("end")
        )
        self.domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        self.domain.coreDumpWithFormat(
            str(self.directory / "core"), 0, libvirt.VIR_DUMP_LIVE | libvirt.VIR_DUMP_MEMORY_ONLY
        )

    def display(self) -> None:
        """A VNC client says hello (RFC 6143, 7.1), and leaves."""
        graphics = ElementTree.fromstring(self.domain.XMLDesc()).find("devices/graphics")
        assert graphics is not None
        address = (graphics.get("listen", ""), int(graphics.get("port", "0")))
        with self.reachable(address) as client:
            client.sendall(client.recv(12))
            client.recv(2)
            client.sendall(b"\x01")
            client.recv(4)
            client.sendall(b"\x01")
            client.recv(24)
            self.hearer.wait("GRAPHICS", libvirt.VIR_DOMAIN_EVENT_GRAPHICS_INITIALIZE)
        self.hearer.wait("GRAPHICS", libvirt.VIR_DOMAIN_EVENT_GRAPHICS_DISCONNECT)

    def reachable(self, address: tuple[str, int]) -> socket.socket:
        """As virt-viewer --attach does it: the display's descriptor, for a node's port is not of this machine."""
        return socket.socket(fileno=self.domain.openGraphicsFD(0, 0))

    def end(self) -> None:
        libvirt_qemu.qemuMonitorCommand(self.domain, '{"execute":"system_reset"}', 0)
        self.hearer.wait("REBOOT")
        self.domain.managedSave(0)
        self.hearer.wait(
            "LIFECYCLE", libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED
        )
        self.domain.create()
        self.domain.destroy()
        self.hearer.wait("LIFECYCLE", libvirt.VIR_DOMAIN_EVENT_STOPPED, 1)
        self.domain.undefine()
        self.hearer.wait("LIFECYCLE", libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
        time.sleep(0.5)  # what is still under way


def main(uri: str, name: str, directory: str) -> None:
    loop_in_thread()
    afternoon = Afternoon(uri, name, Path(directory))
    steps: list[Callable[[], None]] = [
        afternoon.life,
        afternoon.devices,
        afternoon.tuning,
        afternoon.display,
        afternoon.in_the_guest,
        afternoon.jobs,
        afternoon.end,
    ]
    for step in steps:
        step()
    afternoon.hearer.close()
    for event, args in afternoon.hearer.heard:
        print(json.dumps([event, *args]), flush=True)
    afternoon.connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
