"""Arguments and results of the agent's own operations (`messages.Operation.kind`).  Shapes only."""

from __future__ import annotations

import msgspec


class ExportArgs(msgspec.Struct):
    """kind "export": everything that makes the inactive definition of `uuid`."""

    uuid: bytes


class DefinitionFile(msgspec.Struct):
    """A file that belongs to a definition.  what: nvram | tpm | managed-save.  path: on the node; data: its bytes
    (sparse files are small here: managed saves are moved by "fetch-file" in pieces when `data` is empty)."""

    what: str
    path: str
    size: int
    mode: int = 0o600
    data: bytes = b""


class ExportResult(msgspec.Struct):
    """xml is inactive + secure; snapshots and checkpoints are their XML in parent-before-child order."""

    xml: str
    snapshots: list[str] = []
    current_snapshot: str = ""
    checkpoints: list[str] = []
    files: list[DefinitionFile] = []


class ImportArgs(msgspec.Struct):
    """kind "import": define it here with its snapshots, checkpoints and files; all or nothing."""

    definition: ExportResult


class DropArgs(msgspec.Struct):
    """kind "drop": remove the definition of `uuid` with its metadata (undefine with managed save, snapshots and
    checkpoint metadata, nvram; no disk is touched).  Not an error when it is not there.
    destroy: stop it first if it runs (a stale copy).  nvram: file of a definition that is gone already, "" for none:
    libvirt leaves it behind when a migration undefines the source.  Files on shared file systems stay."""

    uuid: bytes
    destroy: bool = False
    nvram: str = ""


class IdentifyArgs(msgspec.Struct):
    """kind "identify": which files these paths are on the node; result: a text for each as list[str], the same on two
    nodes that see one file, "" where there is none."""

    paths: list[str]


class FetchFileArgs(msgspec.Struct):
    """kind "fetch-file": bytes [offset, offset + length) of a definition file (managed save of `uuid`)."""

    uuid: bytes
    what: str
    offset: int
    length: int


class PutFileArgs(msgspec.Struct):
    """kind "put-file": write bytes at offset of a definition file that an import announced."""

    uuid: bytes
    what: str
    path: str
    offset: int
    data: bytes
    last: bool = False


class PutVolumeArgs(msgspec.Struct):
    """kind "put-volume": write bytes at offset of a file that comes to `path` in a pool's directory; it is there, whole
    and on the disk, with the last of them, in the place of an older one."""

    path: str
    offset: int
    data: bytes
    last: bool = False


class ReadVolumeArgs(msgspec.Struct):
    """kind "read-volume": bytes [offset, offset + length) of a file in a pool's directory; result: bytes."""

    path: str
    offset: int
    length: int


class PeerSocketArgs(msgspec.Struct):
    """kind "peer-socket": path of the unix socket on this node that leads to `peer`'s libvirtd; result: path as str."""

    peer: str
