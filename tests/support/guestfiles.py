"""More programs for the demo's guest: an initrd of its own with files of this machine.  Knows no cluster."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from clusterhost.demo.initrd import Entry, archive

_DIRECTORY, _FILE = 0o040755, 0o100755
_LIBRARY = re.compile(r"(/\S+) \(0x")

DHCLIENT = Path("/sbin/dhclient")
DHCLIENT_SCRIPT = b"""#!/bin/sh
case "$reason" in
BOUND6 | RENEW6 | REBIND6) ip -6 addr replace "$new_ip6_address/${new_ip6_prefixlen:-64}" dev "$interface" ;;
EXPIRE6 | RELEASE6 | STOP6) ip -6 addr del "$old_ip6_address/${old_ip6_prefixlen:-64}" dev "$interface" ;;
esac
"""


def extended(initrd: Path, programs: tuple[Path, ...], texts: Mapping[str, bytes]) -> bytes:
    """The initrd with programs and their libraries, at the same paths, and with texts: the kernel takes several
    archives one after the other."""
    files = {
        str(path)[1:]: path.read_bytes() for program in programs for path in (program, *libraries(program))
    }
    files |= {name.lstrip("/"): text for name, text in texts.items()}
    directories = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    entries = [Entry(name, _DIRECTORY) for name in directories]
    entries += [Entry(name, _FILE, data) for name, data in files.items()]
    return initrd.read_bytes() + archive(entries)


def libraries(program: Path) -> list[Path]:
    """What a program is linked with, its loader too."""
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(found) for found in _LIBRARY.findall(said)]
