"""Public keys, as lines of authorized_keys(5) of OpenSSH have them: told from what only looks like one.  Pure."""

from __future__ import annotations

import base64
import binascii
import re

from imagemgr.errors import SeedRefused

_TYPE = r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w@.-]+"
_OPTION = r'[A-Za-z0-9-]+(?:="(?:\\"|[^"])*")?'
_LINE = re.compile(
    rf"(?:(?!{_TYPE} ){_OPTION}(?:,{_OPTION})* +)?(?P<type>{_TYPE}) +(?P<key>\S+)(?: .*)?", re.ASCII
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CERTIFICATE = re.compile(r"-cert-v\d\d@")
_LENGTH = 4
"""Bytes before each field of a key that say how long it is (RFC 4253, 6.6: the first field is the type)."""


def check(line: str) -> None:
    """SeedRefused: the guest's sshd could not take it for a key."""
    found = _LINE.fullmatch(line)
    if found is None or _CONTROL.search(line):
        raise SeedRefused(f"{line[:40]!r} is no public key; one is 'ssh-ed25519 AAAA... comment'")
    if why := _fault(found["type"], found["key"]):
        raise SeedRefused(f"{line[:40]!r} is no public key: {why}")


def _fault(kind: str, text: str) -> str:
    """What is wrong with the base64 behind a type, "" when nothing is."""
    fields = _fields(data) if (data := _decoded(text)) is not None else None
    if fields is None:
        return f"what follows {kind} is no base64, or not all of it"
    if not fields or not re.fullmatch(_TYPE, fields[0], re.ASCII):
        return f"what follows {kind} is no key"
    if fields[0] != kind:
        return f"what follows {kind} is a key of type {fields[0]}"
    # Not all that is in a certificate says how long it is.
    whole = len(fields) > 1 and "" not in fields
    return "" if whole or _CERTIFICATE.search(kind) else f"a part of what follows {kind} is missing"


def _decoded(text: str) -> bytes | None:
    """None of what is no base64, or has bits behind its end, which OpenSSH refuses, too."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _fields(data: bytes) -> list[str]:
    """Each as text of its bytes, up to one that is empty or not all there: "" for that."""
    found: list[str] = []
    start = 0
    while start < len(data) and "" not in found[-1:]:
        begin = start + _LENGTH
        start = begin + int.from_bytes(data[start:begin], "big")
        found.append(data[begin:start].decode("latin-1") if start <= len(data) else "")
    return found
