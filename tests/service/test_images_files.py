"""Which files a definition names, and which of them the domain writes to."""

import pytest

from clusterhost.service.image_files import DomainFile, files_of, may_come
from clusterhost.service.image_stock import Copying


def disk(source: str, more: str = "", device: str = "disk", type_: str = "file") -> str:
    return f"<disk type='{type_}' device='{device}'><source {source}/><target dev='vda'/>{more}</disk>"


def domain(devices: str, boot: str = "") -> str:
    return f"<domain type='qemu'><name>web</name><os>{boot}</os><devices>{devices}</devices></domain>"


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (disk("file='/images/a'"), DomainFile("/images/a", True, disk="vda")),
        (disk("file='/images/a'", "<readonly/>"), DomainFile("/images/a", disk="vda")),
        (disk("file='/images/a'", "<transient/>"), DomainFile("/images/a", disk="vda")),
        (disk("file='/images/a'", "<shareable/>"), DomainFile("/images/a", True, disk="vda", shareable=True)),
        (disk("file='/a'", "<driver name='qemu' type='raw'/>"), DomainFile("/a", True, "", "", "raw", "vda")),
        (disk("file='/iso/cd.iso'", device="cdrom"), DomainFile("/iso/cd.iso", disk="vda")),
        (disk("file='/iso/f.img'", device="floppy"), DomainFile("/iso/f.img", True, disk="vda")),
        (disk("dev='/dev/vg/a'", type_="block"), DomainFile("/dev/vg/a", True, disk="vda")),
        (disk("pool='default' volume='a'", type_="volume"), DomainFile("", True, "default", "a", disk="vda")),
    ],
)
def test_a_disk_is_a_path_or_a_volume_and_written_unless_it_says_otherwise(
    devices: str, expected: DomainFile
) -> None:
    assert files_of(domain(devices)) == (expected,)


def test_a_drive_without_a_medium_and_a_disk_of_the_network_need_no_file() -> None:
    empty = "<disk type='file' device='cdrom'><target dev='sda'/></disk>"
    remote = disk("protocol='nbd' name='a'", type_="network")
    assert files_of(domain(empty + remote)) == ()


def test_what_it_boots_from_is_only_read() -> None:
    boot = (
        "<loader readonly='yes' type='pflash'>/fw/code.fd</loader><nvram template='/fw/vars.fd'>/nvram/web</nvram>"
        "<kernel> /boot/vmlinuz </kernel><initrd>/boot/initrd</initrd>"
    )
    assert files_of(domain("", boot)) == tuple(
        DomainFile(path) for path in ("/boot/vmlinuz", "/boot/initrd", "/fw/code.fd", "/fw/vars.fd")
    )


def test_a_document_that_is_refused_names_nothing() -> None:
    assert files_of("<domain>") == ()
    assert files_of("<!DOCTYPE a [<!ENTITY b 'c'>]><domain/>") == ()


def test_a_medium_without_which_it_starts_is_told() -> None:
    (file,) = files_of(domain(disk("file='/iso/cd.iso' startupPolicy='optional'", device="cdrom")))
    assert file.optional


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("/boot/vmlinuz", True),
        ("/boot/deep/er/vmlinuz", True),
        ("/boot2/vmlinuz", False),
        ("/boot/../etc/shadow", False),
        ("/boot//vmlinuz", False),
        ("/boot", False),
        ("/srv/iso/a", True),
        ("relative", False),
    ],
)
def test_only_what_is_below_a_directory_of_the_settings_may_come(path: str, may: bool) -> None:
    assert may_come(DomainFile(path), ["/boot", "/srv/iso/"]) is may
    assert not may_come(DomainFile(path, written=True), ["/boot", "/srv/iso/"])
    assert not may_come(DomainFile(path), [])


def test_libvirt_copies_what_is_written_alone_or_what_is_named() -> None:
    mine, ours = DomainFile("/a", True, disk="vda"), DomainFile("/b", True, disk="vdb", shareable=True)
    read = DomainFile("/c", disk="vdc")
    assert [Copying().takes(file) for file in (mine, ours, read)] == [True, False, False]
    named = Copying(disks=frozenset({"vdb", "vdc"}))
    assert [named.takes(file) for file in (mine, ours, read)] == [False, True, False]
