"""Documents of pools and volumes, and what a real libvirt says of each.  Knows nothing of imagemgr.

The tables are tests/unit/data/pool-{documents,beside}.jsonl and volume-documents.jsonl, a case in each line.  To try a
new case, add a line with what it is and its XML; `python -m tests.support.pooltables` asks and writes the answers
down: a private libvirtd of pools, libvirt's test driver (which reads and writes as libvirtd does, and needs no
storage) of volumes, and of pools whose backend the machine lacks.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from tests.support.libvirtd import PrivateLibvirtd

DATA = Path(__file__).parent.parent / "unit" / "data"
POOLS, BESIDE = DATA / "pool-documents.jsonl", DATA / "pool-beside.jsonl"
VOLUMES = DATA / "volume-documents.jsonl"
ROOM = re.compile(r"\n  <(capacity|allocation|available) unit='bytes'>\d+</\1>")
UUID = re.compile(r"\n  <uuid>[^<]*</uuid>")
SOURCE = "<host name='h'/><device path='/d'/><dir path='/s'/><adapter name='host0'/><name>s</name>"
INITIATOR = "<initiator><iqn name='i'/></initiator>"
HOME = "<pool type='{}'><name>home</name><source>" + SOURCE + INITIATOR + "</source>{}</pool>"
TARGET = "<target><path>/p</path></target>"


@dataclass(frozen=True)
class PoolCase:
    """A <pool> to be defined.  code: libvirt's error, 0 for none; strict: the same with validation asked for.

    shows: what pool-dumpxml says then, less uuid and room; by: who said so."""

    what: str
    xml: str
    code: int = 0
    strict: int = 0
    shows: str = ""
    by: str = ""


@dataclass(frozen=True)
class BesideCase:
    """A <pool> to be defined beside others that there are."""

    what: str
    known: list[str]
    xml: str
    code: int = 0
    by: str = ""


@dataclass(frozen=True)
class VolumeCase:
    """A <volume> to be made in a pool of a type.  shows: what vol-dumpxml says then.

    strict: with validation asked for; libvirt 9.0 then refuses what fits its format too (8: it forgot the flag)."""

    what: str
    pool: str
    xml: str
    code: int = 0
    strict: int = 0
    shows: str = ""


def pools() -> list[PoolCase]:
    """The table."""
    return [PoolCase(**line) for line in _read(POOLS)]


def beside() -> list[BesideCase]:
    """The table."""
    return [BesideCase(**line) for line in _read(BESIDE)]


def volumes() -> list[VolumeCase]:
    """The table."""
    return [VolumeCase(**line) for line in _read(VOLUMES)]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)


def plain(xml: str) -> str:
    """A pool's document without what libvirt generates or finds."""
    return ROOM.sub("", UUID.sub("", xml))


class Oracle:
    """A real libvirtd without pools, and libvirt's test driver."""

    def __init__(self, daemon: PrivateLibvirtd) -> None:
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.tellers = {
            "libvirtd": libvirt.open(f"qemu+unix:///system?socket={daemon.socket}"),
            "test driver": libvirt.open("test:///default"),
        }

    def close(self) -> None:
        """Let go of both."""
        for connection in self.tellers.values():
            connection.close()

    def define(self, case: PoolCase) -> PoolCase:
        """What they say of a pool."""
        by, code, shows = self._define((), case.xml, 0)
        _, strict, _ = self._define((), case.xml, libvirt.VIR_STORAGE_POOL_DEFINE_VALIDATE)
        return replace(case, code=code, strict=strict, shows=plain(shows), by=by)

    def beside(self, case: BesideCase) -> BesideCase:
        """What they say of a pool beside others."""
        by, code, _ = self._define(case.known, case.xml, 0)
        return replace(case, code=code, by=by)

    def _define(self, known: Sequence[str], xml: str, flags: int) -> tuple[str, int, str]:
        by, code, shows = "", 0, ""
        for by, connection in self.tellers.items():
            defined = []
            try:
                defined = [connection.storagePoolDefineXML(text) for text in known]
                defined.append(connection.storagePoolDefineXML(xml, flags))
                return by, 0, defined[-1].XMLDesc(0)
            except libvirt.libvirtError as error:
                code = int(error.get_error_code())
                if "missing backend" not in str(error):
                    break
            finally:
                for pool in {pool.UUIDString(): pool for pool in defined}.values():
                    pool.undefine()
        return by, code, shows

    def create(self, case: VolumeCase) -> VolumeCase:
        """What it says of a volume."""
        pool = self.tellers["test driver"].storagePoolDefineXML(HOME.format(case.pool, TARGET))
        pool.create()
        strict, _ = self._create(pool, case.xml, libvirt.VIR_STORAGE_VOL_CREATE_VALIDATE)
        code, shows = self._create(pool, case.xml, 0)
        pool.destroy()
        pool.undefine()
        return replace(case, code=code, strict=strict, shows=shows)

    def _create(self, pool: libvirt.virStoragePool, xml: str, flags: int) -> tuple[int, str]:
        try:
            volume = pool.createXML(xml, flags)
        except libvirt.libvirtError as error:
            return int(error.get_error_code()), ""
        shows = volume.XMLDesc()
        volume.delete()
        return 0, shows


def main() -> int:
    """Write down what is said of each case."""
    with tempfile.TemporaryDirectory() as directory:
        daemon = PrivateLibvirtd(Path(directory))
        daemon.start()
        try:
            oracle = Oracle(daemon)
            tables: dict[Path, list[Any]] = {
                POOLS: [oracle.define(case) for case in pools()],
                BESIDE: [oracle.beside(case) for case in beside()],
                VOLUMES: [oracle.create(case) for case in volumes()],
            }
            oracle.close()
        finally:
            daemon.stop()
    for path, cases in tables.items():
        path.write_text("".join(json.dumps(asdict(case), ensure_ascii=False) + "\n" for case in cases))
        print(f"{path.name}: {len(cases)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
