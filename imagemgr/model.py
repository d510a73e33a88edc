"""What pools and volumes are, in frozen values named as in libvirt's storage XML.  Pure.

uuids are 16 bytes (b"" where none was given), sizes are bytes, lists are tuples in the document's order.  An empty
text or None says: not given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """SHARED: one place that every node reaches; LOCAL: a place on each node, together one namespace."""

    SHARED = "shared"
    LOCAL = "local"


class Part(StrEnum):
    """What the source of a pool is made of; NETWORK: volumes are neither files nor devices of a node."""

    HOST = "host"
    DEVICE = "device"
    DIR = "dir"
    ADAPTER = "adapter"
    NAME = "name"
    INITIATOR = "initiator"
    NETWORK = "network"


class PoolType(StrEnum):
    """All that libvirt 9.0 has."""

    DIR = "dir"
    FS = "fs"
    NETFS = "netfs"
    LOGICAL = "logical"
    DISK = "disk"
    ISCSI = "iscsi"
    ISCSI_DIRECT = "iscsi-direct"
    SCSI = "scsi"
    MPATH = "mpath"
    RBD = "rbd"
    SHEEPDOG = "sheepdog"
    GLUSTER = "gluster"
    ZFS = "zfs"
    VSTORAGE = "vstorage"

    @property
    def traits(self) -> Traits:
        """What is so for all pools of this type."""
        return TRAITS[self]

    @property
    def kind(self) -> Kind:
        """Shared or local, where nobody says otherwise (a directory may be marked as shared)."""
        return self.traits.kind

    @property
    def has_target(self) -> bool:
        """Its volumes are below a path of the node."""
        return Part.NETWORK not in self.traits.parts

    @property
    def holds_files(self) -> bool:
        """Its volumes are files in a directory of the node; else they are devices, or nothing of a node."""
        return self.has_target and self.traits.volume_formats == FILE_FORMATS


@dataclass(frozen=True, slots=True)
class Traits:
    """What is so for all pools of a type.  formats: of the source, the first is the default where default is "".

    volume_formats: of volumes, the first is the default; options: the prefix of its namespace for options."""

    kind: Kind
    parts: frozenset[Part] = frozenset()
    formats: tuple[str, ...] = ()
    default: str = ""
    volume_formats: tuple[str, ...] = ()
    options: str = ""

    @property
    def default_format(self) -> str:
        """The format of a source that names none, "" where sources have none."""
        return self.default or next(iter(self.formats), "")


FILE_FORMATS = (
    *("raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop"),
    *("cow", "qcow", "qcow2", "qed", "vmdk"),
)
FS_FORMATS = (
    *("auto", "ext2", "ext3", "ext4", "ufs", "iso9660", "udf", "gfs", "gfs2", "vfat", "hfs+", "xfs", "ocfs2"),
    "vmfs",
)
NETFS_FORMATS = ("auto", "nfs", "glusterfs", "cifs")
LOGICAL_FORMATS = ("unknown", "lvm2")
DISK_FORMATS = ("unknown", "dos", "dvh", "gpt", "mac", "bsd", "pc98", "sun", "lvm2")
PARTITIONS = ("none", "linux", "fat16", "fat32", "linux-swap", "linux-lvm", "linux-raid", "extended")
FEATURES = ("lazy_refcounts", "extended_l2")
VOLUME_TYPES = ("file", "block", "dir", "network", "netdir", "ploop")


def _traits(
    kind: Kind,
    *parts: Part,
    formats: tuple[str, ...] = (),
    default: str = "",
    volumes: tuple[str, ...] = (),
    options: str = "",
) -> Traits:
    return Traits(kind, frozenset(parts), formats, default, volumes, options)


_HOST, _DEVICE, _NAME, _NETWORK, _DIR = Part.HOST, Part.DEVICE, Part.NAME, Part.NETWORK, Part.DIR
TRAITS = MappingProxyType(
    {
        PoolType.DIR: _traits(Kind.LOCAL, volumes=FILE_FORMATS),
        PoolType.FS: _traits(Kind.LOCAL, _DEVICE, formats=FS_FORMATS, volumes=FILE_FORMATS, options="fs"),
        PoolType.NETFS: _traits(
            Kind.SHARED, _HOST, _DIR, formats=NETFS_FORMATS, volumes=FILE_FORMATS, options="fs"
        ),
        PoolType.LOGICAL: _traits(Kind.LOCAL, _NAME, _DEVICE, formats=LOGICAL_FORMATS, default="lvm2"),
        PoolType.DISK: _traits(Kind.LOCAL, _DEVICE, formats=DISK_FORMATS, volumes=PARTITIONS),
        PoolType.ISCSI: _traits(Kind.SHARED, _HOST, _DEVICE, Part.INITIATOR),
        PoolType.ISCSI_DIRECT: _traits(Kind.SHARED, _HOST, _DEVICE, _NETWORK, Part.INITIATOR),
        PoolType.SCSI: _traits(Kind.LOCAL, Part.ADAPTER),
        PoolType.MPATH: _traits(Kind.LOCAL),
        PoolType.RBD: _traits(Kind.SHARED, _HOST, _NETWORK, _NAME, volumes=FILE_FORMATS, options="rbd"),
        PoolType.SHEEPDOG: _traits(Kind.SHARED, _HOST, _NETWORK, _NAME),
        PoolType.GLUSTER: _traits(Kind.SHARED, _HOST, _NETWORK, _NAME, _DIR, volumes=FILE_FORMATS),
        PoolType.ZFS: _traits(Kind.LOCAL, _NAME, _DEVICE),
        PoolType.VSTORAGE: _traits(Kind.SHARED, _NAME, volumes=FILE_FORMATS),
    }
)


@dataclass(frozen=True, slots=True)
class Permissions:
    """<permissions>; mode: nine bits."""

    mode: int | None = None
    owner: int | None = None
    group: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Secret:
    """<secret>: named by its uuid or, where that is b"", by its usage.  type: None where none is written."""

    type: str | None = None
    uuid: bytes = b""
    usage: str = ""


@dataclass(frozen=True, slots=True)
class Auth:
    """<auth>.  type: chap or ceph."""

    type: str
    username: str
    secret: Secret


@dataclass(frozen=True, slots=True)
class Host:
    """<host> of a source; port 0: the usual one."""

    name: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """<device> of a source.  part_separator: a `p` stands between its path and a partition's number."""

    path: str
    part_separator: bool | None = None


@dataclass(frozen=True, slots=True)
class PciAddress:
    """Where an adapter is plugged in."""

    domain: int = 0
    bus: int = 0
    slot: int = 0
    function: int = 0


@dataclass(frozen=True, slots=True)
class ScsiAdapter:
    """<adapter type='scsi_host'>: by name, or by the address of its parent.  None: not given."""

    name: str | None = None
    parent: PciAddress | None = None
    unique_id: int = 0


@dataclass(frozen=True, slots=True)
class FcAdapter:
    """<adapter type='fc_host'>: by world wide names.  None: not given."""

    wwnn: str | None = None
    wwpn: str | None = None
    parent: str | None = None
    parent_wwnn: str | None = None
    parent_wwpn: str | None = None
    parent_fabric_wwn: str | None = None
    managed: bool | None = None


Adapter = ScsiAdapter | FcAdapter


@dataclass(frozen=True, slots=True)
class PoolSource:
    """<source>: where a pool gets its room from.  iqn: of the initiator."""

    name: str = ""
    hosts: tuple[Host, ...] = ()
    devices: tuple[Device, ...] = ()
    dir: str = ""
    adapter: Adapter | None = None
    iqn: str = ""
    format: str = ""
    auth: Auth | None = None
    protocol: str = ""
    vendor: str = ""
    product: str = ""


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """<target>: where volumes are to be found on a node."""

    path: str = ""
    permissions: Permissions = Permissions()


@dataclass(frozen=True, slots=True)
class Pool:
    """<pool>.  cow: copy on write, None for what the file system does; refresh: "", default or capacity.

    options: of mounting (the second text is ""), or of rbd (name, value)."""

    type: PoolType
    name: str
    uuid: bytes = b""
    source: PoolSource = PoolSource()
    target: PoolTarget = PoolTarget()
    cow: bool | None = None
    refresh: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> Kind:
        """That of its type."""
        return self.type.kind

    def file(self, name: str) -> str:
        """Where a node has the file that is the volume of that name; "" when its volumes are no files."""
        return f"{self.target.path}/{name}" if self.type.holds_files else ""


@dataclass(frozen=True, slots=True)
class Room:
    """What a pool has, in bytes."""

    capacity: int = 0
    allocation: int = 0
    available: int = 0

    def __add__(self, other: Room) -> Room:
        return Room(
            self.capacity + other.capacity,
            self.allocation + other.allocation,
            self.available + other.available,
        )


@dataclass(frozen=True, slots=True)
class Cipher:
    """<cipher> and <ivgen> of LUKS; size: bits of the key.  ivgen "" and None: not given."""

    name: str
    size: int
    mode: str | None = None
    hash: str | None = None
    ivgen: str | None = None
    ivgen_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Encryption:
    """<encryption>.  engine: "", qemu or librbd."""

    format: str
    engine: str = ""
    secrets: tuple[Secret, ...] = ()
    cipher: Cipher | None = None


@dataclass(frozen=True, slots=True)
class VolumeTarget:
    """<target> and <backingStore>.  features None: no such element; timestamps: name and seconds, as written;

    nocow: asked for, never shown."""

    path: str = ""
    format: str = ""
    permissions: Permissions = Permissions()
    timestamps: tuple[tuple[str, str], ...] = ()
    encryption: Encryption | None = None
    compat: str = ""
    cluster_size: int = 0
    features: frozenset[str] | None = None
    nocow: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a device that a volume has, both ends as libvirt says them."""

    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Volume:
    """<volume>.  allocation None: not said, so all of it; physical: bytes of its file, 0 for unknown."""

    name: str
    type: str = "file"
    key: str = ""
    extents: tuple[Extent, ...] = ()
    capacity: int = 0
    allocation: int | None = None
    physical: int = 0
    target: VolumeTarget = VolumeTarget()
    backing: VolumeTarget | None = None

    @property
    def allocated(self) -> int:
        """Bytes it takes."""
        return self.capacity if self.allocation is None else self.allocation


class CopyState(StrEnum):
    """WHOLE: all of it, and current; COMING: not all there yet; STALE: of an older generation; LOST: its node is
    away."""

    WHOLE = "whole"
    COMING = "coming"
    STALE = "stale"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Copy:
    """A volume's bytes at a node ("" in a shared pool).  digest: of its manifest, b"" where nobody has read it.

    used: epoch seconds, when it came there or a domain had it last; 0 where nobody has noted that."""

    node: str
    state: CopyState = CopyState.WHOLE
    generation: int = 0
    digest: bytes = b""
    capacity: int = 0
    allocation: int = 0
    used: float = 0.0


@dataclass(frozen=True, slots=True)
class Held:
    """A volume of a pool's namespace.  name: of its files; shown: to clients, another where names clash.

    generation: the current one, which rises when something may have written."""

    name: str
    shown: str
    generation: int = 0
    copies: tuple[Copy, ...] = ()

    @property
    def is_listed(self) -> bool:
        """A client may see it: some copy is whole."""
        return any(copy.state is CopyState.WHOLE for copy in self.copies)

    def at(self, node: str) -> Copy | None:
        """Its copy at a node."""
        return next((copy for copy in self.copies if copy.node == node), None)
