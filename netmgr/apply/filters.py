"""nftables through nft(8): load a script, see whether what it made is still there.  Knows no rule.

What the kernel has cannot be compared with a script, so the listing right after loading is remembered, as a digest,
with the script's.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from netmgr.nft import FAMILIES, table_name
from netmgr.plan import digest

_SECONDS = 20
_NETFILTER = 12
_GET_GENERATION = (10 << 8) | 16
_GENERATION_ID = 1


class RulesRefused(Exception):
    """nft did not take them; its own words."""


def load(script: str, bridge: str, memory: Path) -> None:
    """Load in one transaction and remember what came of it."""
    memory.unlink(missing_ok=True)
    _nft("-f", "-", text=script)
    temporary = memory.with_name(f".{memory.name}")
    temporary.write_text(f"{digest(script)} {_listing(bridge)} {bridge}")
    temporary.replace(memory)


def drop(script: str, memory: Path) -> None:
    """Load a script that leaves nothing to be remembered."""
    _nft("-f", "-", text=script)
    memory.unlink(missing_ok=True)


def loaded(memory: Path) -> tuple[str, str]:
    """Digest of the script that the tables were loaded from, and the bridge they were for; the digest is "" when they
    are not as it left them, the bridge is "" when none were loaded."""
    try:
        script, listing, bridge = memory.read_text().split()
    except (FileNotFoundError, ValueError):
        return "", ""
    return script if _listing(bridge) == listing else "", bridge


def tables(bridge: str) -> frozenset[str]:
    """Which of a network's tables are there: family and name."""
    ours = {f"{family} {table_name(bridge)}" for family in FAMILIES}
    there = {line.removeprefix("table ") for line in _nft("list", "tables").splitlines()}
    return frozenset(ours & there)


def listing() -> list[dict[str, Any]]:
    """All rules of this network namespace, sets left empty, as libnftables-json(5) has them."""
    found: list[dict[str, Any]] = json.loads(_nft("-j", "-t", "list", "ruleset"))["nftables"]
    return found


def generation() -> int:
    """A number that changes with every change of any rule in this network namespace; read without a program.

    linux/netfilter/nf_tables.h: NFT_MSG_GETGEN is answered with NFTA_GEN_ID.  OSError when the kernel refuses."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETFILTER) as connection:
        connection.settimeout(_SECONDS)
        connection.send(struct.pack("=IHHIIBBH", 20, _GET_GENERATION, 1, 0, 0, 0, 0, 0))
        data = connection.recv(4096)
    at = 20
    while at + 8 <= len(data):
        length, attribute = struct.unpack_from("=HH", data, at)
        if attribute == _GENERATION_ID:
            return int(struct.unpack_from("!I", data, at + 4)[0])
        at += max(length + 3 & ~3, 4)
    raise OSError("the kernel did not tell the generation of its rules")


def _listing(bridge: str) -> str:
    # One program for each: nft 1.0.6 forgets the first table when a script lists two.
    try:
        return digest("".join(_nft("-s", "list", "table", family, table_name(bridge)) for family in FAMILIES))
    except RulesRefused:
        return ""


def _nft(*arguments: str, text: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise RulesRefused("nft is not installed on this node") from None
    except subprocess.TimeoutExpired:
        raise RulesRefused(f"nft gave no answer for {_SECONDS} seconds") from None
    if done.returncode:
        raise RulesRefused(f"nft: {' '.join(done.stderr.split())[:400]}")
    return done.stdout
