"""Which files a domain's definition says it needs, beside what belongs to the definition itself.  Knows no pools."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from compat.xmldoc import Element, XmlDocument, XmlError
from imagemgr.errors import PathRefused
from imagemgr.names import inside, normal

BOOT = ("os/kernel", "os/initrd", "os/dtb", "os/loader", "os/acpi/table")
"""Elements whose text is a path that is only read."""


@dataclass(frozen=True, slots=True)
class DomainFile:
    """A path, or a volume by the names of it and of its pool ("" for a path).  written: the domain may change it.
    format: of a disk, as the definition says it; disk: its name in the guest; shareable: others may have it too;
    optional: libvirt starts the domain without it."""

    path: str
    written: bool = False
    pool: str = ""
    volume: str = ""
    format: str = ""
    disk: str = ""
    shareable: bool = False
    optional: bool = False


@lru_cache(maxsize=64)  # a start asks eight times what its definition names
def files_of(xml: str) -> tuple[DomainFile, ...]:
    """Disks, install media, what it boots from and the template of its NVRAM; none of a document that is refused."""
    try:
        document = XmlDocument.parse(xml)
    except XmlError:
        return ()
    found = [file for disk in document.all("devices/disk") if (file := _of_disk(disk)) is not None]
    boot = [(document.text(where) or "").strip() for where in BOOT]
    template = (document.attribute("os/nvram", "template") or "").strip()
    return (*found, *(DomainFile(path) for path in (*boot, template) if path.startswith("/")))


def may_come(file: DomainFile, directories: Collection[str]) -> bool:
    """Whether a file that is no volume may be copied from node to node: one that is only read, in these directories."""
    try:
        return (
            not file.written
            and normal(file.path) == file.path
            and any(inside(directory, file.path) for directory in directories)
        )
    except PathRefused:
        return False


def _of_disk(disk: Element) -> DomainFile | None:
    source = disk.find("source")
    if source is None:
        return None
    kept = disk.find("readonly") is not None or disk.find("transient") is not None
    written = not kept and disk.get("device", "disk") != "cdrom"
    driver, target = disk.find("driver"), disk.find("target")
    form = driver.get("type", "") if driver is not None else ""
    name = target.get("dev", "") if target is not None else ""
    shareable = disk.find("shareable") is not None
    pool, volume = source.get("pool", ""), source.get("volume", "")
    if pool and volume:
        return DomainFile("", written, pool, volume, form, name, shareable)
    path = source.get("file") or source.get("dev") or ""
    optional = source.get("startupPolicy", "") == "optional"
    file = DomainFile(path, written, format=form, disk=name, shareable=shareable, optional=optional)
    return file if path else None
