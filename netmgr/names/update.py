"""Talks to a DNS server: reads zones, sends updates, all of it signed.  Decides nothing; blocks, so use a thread."""

from __future__ import annotations

import base64
import binascii
import re
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
import dns.xfr
import dns.zone

from netmgr.names.plan import Update
from netmgr.names.records import MARK, Nodes, Rrset, canonical

BATCH = 100
"""Names in one message: far below the 64 KiB that a message may have, and one write of the server's disk."""

# What a signed zone has at names beside what was put there.
_SIGNERS = {dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3}
_RACES = {dns.rcode.YXDOMAIN, dns.rcode.YXRRSET, dns.rcode.NXRRSET, dns.rcode.NXDOMAIN}
_ALGORITHMS = ("hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
_KEY_ERRORS: dict[type[Exception], str] = {
    dns.tsig.PeerBadKey: "the server does not know the key {key}",
    dns.tsig.PeerBadSignature: "the key {key} has another secret at the server",
    dns.tsig.PeerBadTime: "the server's clock differs from ours by more than a key allows",
    dns.tsig.BadSignature: "the server's answer is signed with another secret than that of the key {key}",
    dns.tsig.BadTime: "the server's clock differs from ours by more than a key allows",
}
_KEY = re.compile(r'key\s+"?([^"\s{]+)"?\s*\{([^}]*)\}')
_PART = re.compile(r'(algorithm|secret)\s+"?([^";\s]+)"?\s*;')


class ServerUnreachable(Exception):
    """No connection, or no answer in time."""


class ServerRefused(Exception):
    """It answered, and did not do it: the key is wrong, or may not do this."""


class TransferRefused(ServerRefused):
    """The key may not read a zone as a whole."""


class KeyUnusable(Exception):
    """The file holds no key that we can use."""


@dataclass(frozen=True, slots=True)
class Key:
    """A TSIG key; secret: base64."""

    name: str
    secret: str = field(repr=False)
    algorithm: str = "hmac-sha256"


@dataclass(frozen=True, slots=True)
class Server:
    """Where a primary server listens.  timeout: seconds for each answer."""

    host: str
    key: Key
    port: int = 53
    timeout: float = 5.0

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


def read_key(path: Path) -> Key:
    """A key as tsig-keygen writes it.  KeyUnusable."""
    try:
        found = _KEY.search(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise KeyUnusable(f"{path} cannot be read: {error}") from error
    parts = dict(_PART.findall(found[2])) if found else {}
    if found is None or "secret" not in parts:
        raise KeyUnusable(
            f'{path} has no key "NAME" {{ algorithm ...; secret "..."; }}; as tsig-keygen writes it'
        )
    key = Key(found[1], parts["secret"], parts.get("algorithm", "hmac-sha256").lower())
    if key.algorithm not in _ALGORITHMS:
        raise KeyUnusable(f"{path}: the algorithm is {key.algorithm}, allowed are {', '.join(_ALGORITHMS)}")
    try:
        base64.b64decode(key.secret, validate=True)
        _tsig(key)
    except (binascii.Error, dns.exception.DNSException) as error:
        raise KeyUnusable(f"{path}: the key {key.name} is not usable: {error}") from error
    return key


def _tsig(key: Key) -> dns.tsig.Key:
    return dns.tsig.Key(key.name, key.secret, key.algorithm)


class Connection:
    """One TCP connection to a server, for one round of reading and writing.

    Everything raises ServerUnreachable and ServerRefused."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._key = _tsig(server.key)
        self._socket: socket.socket | None = None
        self._address = ""

    def __enter__(self) -> Self:
        server = self._server
        try:
            self._socket = socket.create_connection((server.host, server.port), server.timeout)
        except OSError as error:
            raise self._unreachable(error) from error
        self._address = self._socket.getpeername()[0]
        self._socket.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()

    # -- reading

    def serial(self, zone: str) -> int:
        """The zone's serial: another one after each change."""
        answer = self._ask(dns.message.make_query(zone, "SOA"))
        self._must_be_done(answer, f"zone {zone}")
        for rrset in answer.answer:
            if rrset.rdtype == dns.rdatatype.SOA:
                return int(rrset[0].serial)
        raise ServerRefused(f"{self._server} has no zone {zone}")

    def transfer(self, zone: str) -> tuple[Nodes, int]:
        """All names of a zone but its own, and its serial.  TransferRefused."""
        found = dns.zone.Zone(zone, relativize=False)
        query, _ = dns.xfr.make_query(found, serial=None, keyring=self._key)
        server = self._server
        try:
            dns.query.inbound_xfr(
                self._address, found, query, server.port, timeout=server.timeout, lifetime=60 * server.timeout
            )
        except dns.xfr.TransferError as error:
            code = dns.rcode.to_text(error.rcode)
            raise TransferRefused(f"{server} refuses the transfer of zone {zone}: {code}") from error
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise self._failure(error) from error
        return _nodes(found), found.get_soa().serial

    def look(self, names: Iterable[str]) -> Nodes:
        """The same for some names, one question each: for keys that may not transfer."""
        nodes: dict[str, dict[str, Rrset]] = {}
        for name in names:
            answer = self._ask(dns.message.make_query(name, "ANY"))
            if answer.rcode() != dns.rcode.NXDOMAIN:
                self._must_be_done(answer, name)
            for rrset in answer.answer:
                if rrset.rdtype not in _SIGNERS and rrset.name == dns.name.from_text(name):
                    nodes.setdefault(name, {})[dns.rdatatype.to_text(rrset.rdtype)] = _rrset(rrset)
        return nodes

    # -- writing

    def send(self, zone: str, updates: Sequence[Update]) -> list[Update]:
        """Carry out updates of one zone; those whose prerequisites did not hold are the answer."""
        races: list[Update] = []
        for start in range(0, len(updates), BATCH):
            races += self._send(zone, updates[start : start + BATCH])
        return races

    def _send(self, zone: str, updates: Sequence[Update]) -> list[Update]:
        """A message is all or nothing: one that fails is cut in two until what is in its way is alone."""
        answer = self._ask(_message(zone, updates))
        if answer.rcode() not in _RACES:
            self._must_be_done(answer, f"updates of zone {zone}")
            return []
        if len(updates) == 1:
            return list(updates)
        half = len(updates) // 2
        return self._send(zone, updates[:half]) + self._send(zone, updates[half:])

    def _ask(self, query: dns.message.Message) -> dns.message.Message:
        query.use_tsig(self._key)
        server = self._server
        try:
            answer = dns.query.tcp(query, self._address, server.timeout, server.port, sock=self._socket)
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise self._failure(error) from error
        if not answer.had_tsig:
            # Anybody between us and the server could have said it.
            said = dns.rcode.to_text(answer.rcode())
            raise ServerRefused(f"{server} answered without signature ({said}) to the key {server.key.name}")
        return answer

    def _must_be_done(self, answer: dns.message.Message, what: str) -> None:
        if answer.rcode() != dns.rcode.NOERROR:
            said = dns.rcode.to_text(answer.rcode())
            raise ServerRefused(f"{self._server} refuses {what} to the key {self._server.key.name}: {said}")

    def _failure(self, error: Exception) -> ServerUnreachable | ServerRefused:
        said = _KEY_ERRORS.get(type(error))
        if said is not None:
            return ServerRefused(f"{self._server}: {said.format(key=self._server.key.name)}")
        if isinstance(error, OSError | EOFError | dns.exception.Timeout | struct.error):
            return self._unreachable(error)
        return ServerRefused(f"{self._server}: {type(error).__name__}: {error}")

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        if isinstance(error, TimeoutError | dns.exception.Timeout):
            why = f"no answer within {self._server.timeout:g} s"
        else:
            why = getattr(error, "strerror", None) or "the connection was closed"
        return ServerUnreachable(f"{self._server}: {why}")


def _message(zone: str, updates: Iterable[Update]) -> dns.update.UpdateMessage:
    message = dns.update.UpdateMessage(zone)
    for update in updates:
        name = dns.name.from_text(update.name)
        if update.marks is None:
            message.absent(name)
        else:
            for text in sorted(update.marks):
                message.present(name, MARK, text)
        for kind in update.drop:
            message.delete(name, kind)
        if update.unmark:
            message.delete(name, MARK, update.mark)
        for kind, ttl, data in update.add:
            message.add(name, ttl, kind, data)
    return message


def _nodes(zone: dns.zone.Zone) -> Nodes:
    nodes: dict[str, dict[str, Rrset]] = {}
    for name, rdataset in zone.iterate_rdatasets():
        if name != zone.origin and rdataset.rdtype not in _SIGNERS:
            node = nodes.setdefault(name.to_text().lower(), {})
            node[dns.rdatatype.to_text(rdataset.rdtype)] = _rrset(rdataset)
    return nodes


def _rrset(found: dns.rdataset.Rdataset) -> Rrset:
    kind = dns.rdatatype.to_text(found.rdtype)
    return Rrset(found.ttl, frozenset(canonical(kind, data.to_text()) for data in found))
