"""Write the demo guest's initrd: a cpio archive of busybox, kernel modules, our init.  Knows no libvirt."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

# Loaded in this order after what they depend on; a module that the kernel has built in is left out.
WANTED_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_console",
    "virtio_rng",
    "button",
    "evdev",
    "efivarfs",
)

_DIRECTORY, _FILE, _LINK = 0o040755, 0o100755, 0o120777

_UDHCPC_SCRIPT = b"""#!/bin/sh
case "$1" in
deconfig) ip -4 addr flush dev "$interface"; ip link set "$interface" up ;;
bound | renew)
    ip -4 addr flush dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; break; done
    echo "${domain:+search $domain}" > /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
    ;;
esac
"""

_POWER_BUTTON = b"#!/bin/sh\nsync\npoweroff -f\n"


class GuestPartsMissing(Exception):
    """The machine lacks what the guest is made of; the message names the package to install."""


@dataclass(frozen=True)
class Entry:
    """One member of the archive; `mode` holds the file type as in stat(2)."""

    name: str
    mode: int
    data: bytes = b""


@dataclass(frozen=True)
class KernelParts:
    """A kernel of this machine: its image, and the directory of its modules."""

    image: Path
    modules: Path


def newest_kernel(boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> KernelParts:
    """Return the newest cloud kernel that has its modules; raises GuestPartsMissing."""
    found = [path for path in boot.glob("vmlinuz-*-cloud-amd64") if (modules / _release(path)).is_dir()]
    if not found:
        message = f"no vmlinuz-*-cloud-amd64 with its modules in {boot}: install linux-image-cloud-amd64"
        raise GuestPartsMissing(message)
    newest = max(found, key=_version)
    return KernelParts(newest, modules / _release(newest))


def build(kernel: KernelParts, busybox: Path) -> bytes:
    """Return the initrd: the same bytes for the same kernel, busybox and init."""
    order = load_order(kernel.modules, WANTED_MODULES)
    init = resources.files("clusterhost.demo").joinpath("guest_init.sh").read_bytes()
    entries = [
        *(Entry(name, _DIRECTORY) for name in ("bin", "etc", "etc/acpi", "etc/acpi/PWRF", "modules")),
        Entry("bin/busybox", _FILE, busybox.read_bytes()),
        Entry("bin/sh", _LINK, b"busybox"),
        Entry("init", _FILE, init),
        Entry("etc/udhcpc.script", _FILE, _UDHCPC_SCRIPT),
        Entry("etc/acpi/PWRF/00000080", _FILE, _POWER_BUTTON),
        Entry("modules.list", _FILE, (" ".join(Path(path).name for path in order) + "\n").encode()),
        *(Entry(f"modules/{Path(path).name}", _FILE, (kernel.modules / path).read_bytes()) for path in order),
    ]
    return archive(entries)


def load_order(modules: Path, wanted: Iterable[str]) -> list[str]:
    """Return the files to load, dependencies first, relative to `modules`; built-in modules are absent."""
    dependencies: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, needs = line.partition(":")
        dependencies[file] = needs.split()
    by_name = {_module_name(path): path for path in dependencies}
    order: list[str] = []
    for name in wanted:
        # modules.dep lists what a module needs with the deepest last.
        if path := by_name.get(name):
            order += [*reversed(dependencies[path]), path]
    return list(dict.fromkeys(order))


def archive(entries: Sequence[Entry]) -> bytes:
    """Return a cpio archive in the "newc" format (kernel: early-userspace/buffer-format), times all zero."""
    members = [_member(number, entry) for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1)]
    return b"".join(members)


def _member(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if entry.mode == _DIRECTORY else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _release(image: Path) -> str:
    return image.name.removeprefix("vmlinuz-")


def _version(image: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", _release(image))]


def _module_name(path: str) -> str:
    return Path(path).name.split(".ko")[0].replace("-", "_")
