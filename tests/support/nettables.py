"""Networks' documents and updates, and what a real libvirtd says of each.  Knows nothing of netmgr.

The tables are tests/unit/data/network-{documents,updates}.jsonl, a case in each line.  To try a new case, add a line
with what it is and its XML; `python -m tests.support.nettables` asks a private libvirtd and writes the answers down.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from tests.support.libvirtd import PrivateLibvirtd

DATA = Path(__file__).parent.parent / "unit" / "data"
DOCUMENTS, UPDATES = DATA / "network-documents.jsonl", DATA / "network-updates.jsonl"
CONFIG = libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
GENERATED = re.compile(r"\n  <(?:uuid>[^<]*</uuid>|mac address='52:54:00:[^']*'/>)")
SECTIONS = [
    *("none", "bridge", "domain", "ip", "ip-dhcp-host", "ip-dhcp-range", "forward", "forward-interface"),
    *("forward-pf", "portgroup", "dns-host", "dns-txt", "dns-srv", "unknown"),
]
COMMANDS = ["none", "modify", "delete", "add-last", "add-first", "unknown"]
INACTIVE = libvirt.VIR_NETWORK_XML_INACTIVE


@dataclass(frozen=True)
class Document:
    """A <network> to be defined.  code: libvirt's error, 0 for none; strict: the same with validation asked for.

    shows: what net-dumpxml says then, less the uuid and MAC."""

    what: str
    xml: str
    code: int = 0
    strict: int = 0
    shows: str = ""


@dataclass(frozen=True)
class Update:
    """A net-update --config of the network `base` (which is a Document's name).

    shows: how net-dumpxml changes by it, in the form of diff; "" where it does not."""

    base: str
    command: str
    section: str
    index: int
    xml: str
    code: int = 0
    shows: str = ""

    @property
    def what(self) -> str:
        """In one line."""
        return f"{self.base}: {self.command} {self.section} {self.index} {self.xml}"


def documents() -> list[Document]:
    """The table."""
    return [Document(**line) for line in _read(DOCUMENTS)]


def updates() -> list[Update]:
    """The table."""
    return [Update(**line) for line in _read(UPDATES)]


def bases() -> dict[str, str]:
    """The documents that updates begin with."""
    wanted = {case.base for case in updates()}
    return {case.what: case.xml for case in documents() if case.what in wanted}


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)


def plain(xml: str) -> str:
    """A document without what libvirt generates."""
    return GENERATED.sub("", xml)


def difference(before: str, after: str) -> str:
    """What changed, with line numbers."""
    lines = difflib.unified_diff(plain(before).splitlines(), plain(after).splitlines(), n=0, lineterm="")
    return "\n".join(list(lines)[2:])


class Oracle:
    """A real libvirtd without networks."""

    def __init__(self, daemon: PrivateLibvirtd) -> None:
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.connection = libvirt.open(f"qemu+unix:///system?socket={daemon.socket}")

    def close(self) -> None:
        """Let go of it."""
        self.connection.close()

    def define(self, case: Document) -> Document:
        """What it says of a document."""
        strict, _ = self._define(case.xml, libvirt.VIR_NETWORK_DEFINE_VALIDATE)
        code, shows = self._define(case.xml, 0)
        return replace(case, code=code, strict=strict, shows=plain(shows))

    def _define(self, xml: str, flags: int) -> tuple[int, str]:
        try:
            network = self.connection.networkDefineXMLFlags(xml, flags)
        except libvirt.libvirtError as error:
            return int(error.get_error_code()), ""
        shows = network.XMLDesc(INACTIVE)
        network.undefine()
        return 0, shows

    def update(self, case: Update, base: str) -> Update:
        """What it says of an update of a network."""
        network = self.connection.networkDefineXML(base)
        before = network.XMLDesc(INACTIVE)
        command, section = COMMANDS.index(case.command), SECTIONS.index(case.section)
        try:
            network.update(command, section, case.index, case.xml, CONFIG)
            code = 0
        except libvirt.libvirtError as error:
            code = int(error.get_error_code())
        after = network.XMLDesc(INACTIVE)
        network.undefine()
        return replace(case, code=code, shows=difference(before, after))


def main() -> int:
    """Write down what libvirtd says of each case."""
    with tempfile.TemporaryDirectory() as directory:
        daemon = PrivateLibvirtd(Path(directory))
        daemon.start()
        try:
            oracle = Oracle(daemon)
            defined = [oracle.define(case) for case in documents()]
            start = bases()
            updated = [oracle.update(case, start[case.base]) for case in updates()]
            oracle.close()
        finally:
            daemon.stop()
    for path, cases in ((DOCUMENTS, defined), (UPDATES, updated)):
        path.write_text("".join(json.dumps(asdict(case), ensure_ascii=False) + "\n" for case in cases))
    print(f"{len(defined)} documents, {len(updated)} updates", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
