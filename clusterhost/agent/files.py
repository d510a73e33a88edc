"""Files of a node that belong to a definition: NVRAM, TPM state, managed save.  Knows no libvirtd."""

from __future__ import annotations

import contextlib
import os
import uuid as uuids
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clusterhost.agent import filesystems, pieces
from clusterhost.agent.errors import Unavailable
from clusterhost.control.operations import DefinitionFile

if TYPE_CHECKING:
    from compat.xmldoc import XmlDocument

LIB = Path("/var/lib/libvirt")
"""libvirt's state of the system instance, as the agent's mount namespace shows it."""
MAX_FILE = 32 * 1024 * 1024
NVRAM, TPM, MANAGED_SAVE = "nvram", "tpm", "managed-save"

Undo = Callable[[], None]


def managed_save_path(name: str) -> Path:
    """Where QEMU's driver keeps the managed save of a domain."""
    if "/" in name or name in ("", ".", ".."):
        raise Unavailable("refused", f"{name!r} cannot be the name of a file")
    return LIB / "qemu" / "save" / f"{name}.save"


def has_managed_save(name: str) -> bool:
    """There is one."""
    try:
        return managed_save_path(name).exists()
    except (Unavailable, OSError):
        return False


def nvram_path(xml: str) -> Path | None:
    """The NVRAM file that a definition names (either form of the element), None when it has none."""
    document = _document(xml)
    text = document.text("os/nvram") or ""
    path = text.strip() or document.attribute("os/nvram/source", "file") or ""
    return Path(path) if path else None


def tpm_directory(xml: str) -> Path | None:
    """The directory of an emulated TPM's state, None when the definition has none."""
    document = _document(xml)
    if document.attribute("devices/tpm/backend", "type") != "emulator":
        return None
    text = document.text("uuid")
    return LIB / "swtpm" / str(uuids.UUID(text)) if text else None


def uuid_of(xml: str) -> bytes | None:
    """The domain's uuid as 16 bytes, None when the XML has none."""
    text = _document(xml).text("uuid")
    return uuids.UUID(text).bytes if text else None


def name_of(xml: str) -> str:
    """The name of a domain or of a snapshot."""
    return _document(xml).text("name") or ""


def collect(xml: str) -> list[DefinitionFile]:
    """The files that belong to a definition; a managed save without its bytes.  Raises Unavailable."""
    found: list[DefinitionFile] = []
    nvram = nvram_path(xml)
    if nvram is not None and nvram.is_file():
        found.append(_read(NVRAM, nvram))
    tpm = tpm_directory(xml)
    if tpm is not None and tpm.is_dir():
        found += [_read(TPM, path) for path in sorted(tpm.rglob("*")) if path.is_file()]
    saved = managed_save_path(name_of(xml))
    if saved.is_file():
        status = saved.stat()
        found.append(DefinitionFile(MANAGED_SAVE, str(saved), status.st_size, status.st_mode & 0o777))
    return found


def needs_files(xml: str) -> bool:
    """The definition has files, wherever they are."""
    return nvram_path(xml) is not None or tpm_directory(xml) is not None


def are_shared(xml: str) -> bool:
    """Its NVRAM or TPM state is where other machines see it."""
    return any(
        path is not None and filesystems.is_shared(path) for path in (nvram_path(xml), tpm_directory(xml))
    )


def remove_left_nvram(name: str) -> None:
    """Remove an NVRAM file that no definition has any more; only where libvirt makes them."""
    path = Path(name)
    if path.parent == LIB / "qemu" / "nvram" and not filesystems.is_shared(path):
        path.unlink(missing_ok=True)


def allowed(xml: str, what: str, path: str) -> Path:
    """The path, when it is one that a definition may have; raises Unavailable."""
    wanted = Path(path)
    ok = False
    if what == NVRAM:
        ok = wanted == nvram_path(xml)
    elif what == MANAGED_SAVE:
        ok = wanted == managed_save_path(name_of(xml))
    elif what == TPM:
        directory = tpm_directory(xml)
        ok = directory is not None and wanted.is_relative_to(directory) and ".." not in wanted.parts
    if not ok or not wanted.is_absolute():
        raise Unavailable("refused", f"{path} is not the {what} file of that domain")
    return wanted


def place(file: DefinitionFile, path: Path) -> Undo:
    """Write a file; returns what puts back what was there."""
    before = path.read_bytes() if path.is_file() else None
    mode = path.stat().st_mode & 0o777 if before is not None else 0
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    write_whole(path, file.data, file.mode)

    def undo() -> None:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, before, mode)

    return undo


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_part(path: Path, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def put_part(path: Path, offset: int, data: bytes, *, last: bool) -> None:
    """Write bytes of a file that comes in pieces; it gets its name with the last one."""
    partial = path.with_name(path.name + ".partial")
    if offset == 0:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT, 0o600)
    pieces.write(descriptor, offset, data, last=last)
    if last:
        partial.replace(path)


def _read(what: str, path: Path) -> DefinitionFile:
    status = path.stat()
    if status.st_size > MAX_FILE:
        raise Unavailable("refused", f"{path} has {status.st_size} bytes, files up to {MAX_FILE} are moved")
    return DefinitionFile(what, str(path), status.st_size, status.st_mode & 0o777, path.read_bytes())


def _document(xml: str) -> XmlDocument:
    # Imported when a definition moves: lxml takes 4 MB, and most agents never need it.
    from compat import xmldoc

    return xmldoc.parse(xml)
