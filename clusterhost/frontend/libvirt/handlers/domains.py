"""Lists, lookups and states of domains, answered from the live model in the same instant.  The hot path."""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from clusterhost.frontend.libvirt import errors
from clusterhost.frontend.libvirt.translate import Translator, after_handle, handle_uuid, string_at_start
from clusterhost.model.cluster import Cluster
from clusterhost.model.domain import NOSTATE, PAUSED, RUNNING, SHUTOFF, Domain
from clusterhost.model.errors import ClusterError
from clusterhost.service.ports import Answer
from compat.libvirt import messages
from compat.libvirt.constants import REMOTE_DOMAIN_LIST_MAX, VirDomainXMLFlags
from compat.libvirt.constants import VirConnectListAllDomainsFlags as Flag
from compat.libvirt.errors import XdrError
from compat.libvirt.schema import BY_NAME
from compat.libvirt.xdr import PAD

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

UINT = Struct(">I")
INT = Struct(">i")
TWO_INTS = Struct(">ii")
INT_UINT = Struct(">iI")

NO_STATE = TWO_INTS.pack(NOSTATE, 0)
INFO = Struct(">IQQIQ")
"""state, most memory, memory, virtual CPUs, CPU time"""
VALUE = r"""\s*=\s*(?:'[^']*'|"[^"]*")"""
GRAPHICS = re.compile(rf"<graphics(?:\s+[^\s=<>]+{VALUE})*")
PASSWORD = re.compile(rf"\s+passwd{VALUE}")

LIST_ALL = BY_NAME["remote:CONNECT_LIST_ALL_DOMAINS"]
ASK_NODES = int(Flag.HAS_SNAPSHOT | Flag.NO_SNAPSHOT | Flag.HAS_CHECKPOINT | Flag.NO_CHECKPOINT)
"""Filters on what only the nodes know."""
KNOWN_FLAGS = sum(Flag)
KEPT_LISTS = 64
"""Answers kept; each combination of view and flags is one."""

Test = Callable[[Domain], bool]

GROUPS: tuple[tuple[tuple[int, Test], ...], ...] = (
    ((Flag.ACTIVE, lambda domain: domain.id != -1), (Flag.INACTIVE, lambda domain: domain.id == -1)),
    (
        (Flag.PERSISTENT, lambda domain: domain.persistent),
        (Flag.TRANSIENT, lambda domain: not domain.persistent),
    ),
    (
        (Flag.RUNNING, lambda domain: domain.state == RUNNING),
        (Flag.PAUSED, lambda domain: domain.state == PAUSED),
        (Flag.SHUTOFF, lambda domain: domain.state == SHUTOFF),
        (Flag.OTHER, lambda domain: domain.state not in (RUNNING, PAUSED, SHUTOFF)),
    ),
    (
        (Flag.MANAGEDSAVE, lambda domain: domain.managed_save),
        (Flag.NO_MANAGEDSAVE, lambda domain: not domain.managed_save),
    ),
    (
        (Flag.AUTOSTART, lambda domain: domain.autostart),
        (Flag.NO_AUTOSTART, lambda domain: not domain.autostart),
    ),
)
"""Filters of one group are alternatives; a group without any in the flags lets all pass."""


def passes(domain: Domain, flags: int) -> bool:
    """The domain passes the filters that the model can decide."""
    for group in GROUPS:
        wanted = [test for flag, test in group if flags & flag]
        if wanted and not any(test(domain) for test in wanted):
            return False
    return True


class Lists:
    """Encoded answers of LIST_ALL_DOMAINS, kept while the domains they were made of are the same objects."""

    def __init__(self, cluster: Cluster, translator: Translator) -> None:
        self._cluster = cluster
        self._translator = translator
        self._kept: dict[tuple[str | None, int, bool], tuple[list[Domain], bytes]] = {}

    def all_domains(self, view: str | None, flags: int, need_results: bool) -> bytes:
        """The ret struct.  WireError when there are more than the protocol can carry."""
        now = list(self._cluster.domains(view))
        key = (view, flags, need_results)
        kept = self._kept.get(key)
        # Values are frozen and replaced on change: comparing the lists is comparing identities, some ns each.
        if kept is not None and kept[0] == now:
            return kept[1]
        found = [domain for domain in now if passes(domain, flags)] if flags else now
        payload = self.encoded(found, need_results)
        if len(self._kept) >= KEPT_LISTS:
            self._kept.clear()
        self._kept[key] = (now, payload)
        return payload

    def encoded(self, domains: list[Domain], need_results: bool) -> bytes:
        """The ret struct of these."""
        if len(domains) > REMOTE_DOMAIN_LIST_MAX:
            raise errors.bad_count(f"Too many domains '{len(domains)}' for limit '{REMOTE_DOMAIN_LIST_MAX}'")
        count = UINT.pack(len(domains))
        if not need_results:
            return UINT.pack(0) + count
        handle = self._translator.handle
        return b"".join([count, *[handle(domain) for domain in domains], count])


def list_all_domains(session: Session, args: messages.RemoteConnectListAllDomainsArgs) -> bytes | object:
    """CONNECT_LIST_ALL_DOMAINS; only filters on snapshots and checkpoints need the nodes."""
    flags = args.flags
    session.listed = True
    session.looked_up.clear()
    if flags & ~KNOWN_FLAGS:
        raise errors.unsupported_flags(flags & ~KNOWN_FLAGS, LIST_ALL)
    if flags & ASK_NODES:
        return _asking_nodes(session, flags, bool(args.need_results))
    return session.front.lists.all_domains(session.view, flags, bool(args.need_results))


async def _asking_nodes(session: Session, flags: int, need_results: bool) -> bytes:
    """Domains of nodes out of reach are left out: nobody can say."""
    cluster = session.cluster
    names = [node.name for node in cluster.cells() if node.usable and session.view in (None, node.name)]
    asked = messages.RemoteConnectListAllDomainsArgs(need_results=1, flags=flags & ASK_NODES).to_bytes()
    answers = await session.world.nodes.fan_out(
        names,
        LIST_ALL.program_id,
        LIST_ALL.number,
        asked,
        readonly=session.readonly,
        deadline=session.front.deadline or 30.0,
    )
    found = {(node, handle.uuid) for node, answer in answers.items() for handle in _handles(answer)}
    domains = [
        domain
        for domain in cluster.domains(session.view)
        if (domain.node, domain.uuid) in found and passes(domain, flags)
    ]
    return session.front.lists.encoded(domains, need_results)


def _handles(answer: Answer | ClusterError) -> list[messages.RemoteNonnullDomain]:
    if not isinstance(answer, Answer) or not answer.ok:
        return []
    return messages.RemoteConnectListAllDomainsRet.from_bytes(answer.payload).domains


# -- lookups: the name, uuid or id may be unknown, the answer is always the model's


def found(session: Session, domain: Domain) -> bytes:
    """Its handle."""
    if not session.cluster.nodes[domain.node].usable:
        session.looked_up.add(domain.uuid)
    return session.translator.handle(domain)


def lookup_by_name(session: Session, payload: bytes) -> bytes:
    """DomainNotFound."""
    return found(session, session.cluster.by_name(string_at_start(payload), session.view))


def lookup_by_uuid(session: Session, payload: bytes) -> bytes:
    """DomainNotFound."""
    uuid = payload[:16]
    if len(uuid) != 16:
        raise XdrError("uuid", f"{len(payload)} bytes", "16")
    return found(session, session.cluster.by_uuid(uuid, session.view))


def lookup_by_id(session: Session, payload: bytes) -> bytes:
    """DomainNotFound.  The id is the cluster's."""
    if len(payload) < 4:
        raise XdrError("id", f"{len(payload)} bytes", "4")
    return found(session, session.cluster.by_id(INT.unpack_from(payload)[0], session.view))


# -- states: only while the model may speak for the domain, else None and the call is relayed


def speakable(session: Session, payload: bytes) -> Domain | None:
    """The domain if the model may answer for it.  DomainNotFound."""
    cluster = session.cluster
    uuid = handle_uuid(payload)
    domain = cluster.by_uuid(uuid, session.view)
    return domain if cluster.fresh(uuid) and cluster.nodes[domain.node].usable else None


def without_flags(payload: bytes) -> bool:
    """The `flags` behind the handle are 0 (a node says what it thinks of others)."""
    pos = after_handle(payload)
    return payload[pos : pos + 4] == b"\0\0\0\0"


def polled(session: Session, payload: bytes) -> Domain | None:
    """The domain if its node is out of reach and the client found it in a list.

    Clients that list domains ask for the state of each, and leave out those that give an error: `virsh list` would lose
    them, virt-manager would not show them.  Such a client is told what is known.  Who looked a domain up is told which
    node is out of reach, as by every other call.
    """
    if not session.listed:
        return None
    uuid = handle_uuid(payload)
    domain = session.cluster.by_uuid(uuid, session.view)
    if session.cluster.nodes[domain.node].usable or uuid in session.looked_up:
        return None
    return domain


def get_state(session: Session, payload: bytes) -> bytes | None:
    """state, reason: "no state" for a domain out of reach."""
    domain = speakable(session, payload)
    if domain is None:
        return NO_STATE if polled(session, payload) is not None else None
    if not without_flags(payload):
        return None
    return TWO_INTS.pack(domain.state, domain.reason)


def get_info(session: Session, payload: bytes) -> bytes | None:
    """From its node; out of reach: no state, no CPU time, and the sizes known last."""
    domain = polled(session, payload)
    if domain is None:
        return None
    return INFO.pack(NOSTATE, domain.max_memory, domain.memory, domain.vcpus, 0)


def get_xml_desc(session: Session, payload: bytes) -> bytes | None:
    """From its node; out of reach: the definition on record, without its secrets for whoever does not ask for them."""
    domain = polled(session, payload)
    if domain is None:
        return None
    flags = UINT.unpack_from(payload, after_handle(payload))[0]
    row = session.world.ledger.domains.get(domain.uuid)
    if row is None or not row.xml or flags & ~(VirDomainXMLFlags.SECURE | VirDomainXMLFlags.INACTIVE):
        return None
    xml = row.xml if flags & VirDomainXMLFlags.SECURE else without_secrets(row.xml)
    if xml is None:
        return None
    ret = messages.RemoteDomainGetXmlDescRet(xml=xml).to_bytes()
    return ret if session.view is not None else session.translator.numbered(ret, domain.node)


def without_secrets(xml: str) -> str | None:
    """As libvirt shows it without VIR_DOMAIN_XML_SECURE: no passwords of displays; None when it has cookies."""
    if "<cookies" in xml:
        return None
    return GRAPHICS.sub(lambda found: PASSWORD.sub("", found.group()), xml)


def is_active(session: Session, payload: bytes) -> bytes | None:
    """Running or paused."""
    domain = speakable(session, payload) or polled(session, payload)
    return None if domain is None else INT.pack(domain.id != -1)


def is_persistent(session: Session, payload: bytes) -> bytes | None:
    """It has a definition."""
    domain = speakable(session, payload) or polled(session, payload)
    return None if domain is None else INT.pack(domain.persistent)


def has_managed_save_image(session: Session, payload: bytes) -> bytes | None:
    """A start would restore it."""
    domain = speakable(session, payload) or polled(session, payload)
    if domain is None or not without_flags(payload):
        return None
    return INT.pack(domain.managed_save)


def get_autostart(session: Session, payload: bytes) -> bytes:
    """The cluster's own flag: no node knows better."""
    return INT.pack(session.cluster.by_uuid(handle_uuid(payload), session.view).autostart)


# -- the old calls


def num_of_domains(session: Session, payload: bytes) -> bytes:
    """How many are active."""
    return INT.pack(sum(domain.id != -1 for domain in session.cluster.domains(session.view)))


def num_of_defined_domains(session: Session, payload: bytes) -> bytes:
    """How many are not."""
    return INT.pack(sum(domain.id == -1 for domain in session.cluster.domains(session.view)))


def list_domains(session: Session, args: messages.RemoteConnectListDomainsArgs) -> bytes:
    """Ids of the active ones."""
    wanted = _limit("maxids", args.maxids)
    ids = [domain.id for domain in session.cluster.domains(session.view) if domain.id != -1][:wanted]
    return UINT.pack(len(ids)) + b"".join(map(INT.pack, ids))


def list_defined_domains(session: Session, args: messages.RemoteConnectListDefinedDomainsArgs) -> bytes:
    """Names of the others."""
    wanted = _limit("maxnames", args.maxnames)
    parts: list[bytes] = []
    for domain in session.cluster.domains(session.view):
        if domain.id == -1:
            name = (domain.known_as or domain.name).encode("utf-8", "surrogateescape")
            parts.append(UINT.pack(len(name)) + name + PAD[len(name) & 3])
    parts = parts[:wanted]
    return UINT.pack(len(parts)) + b"".join(parts)


def _limit(what: str, found: int) -> int:
    if found < 0:
        raise errors.bad_count(f"{what} must be non-negative")
    if found > REMOTE_DOMAIN_LIST_MAX:
        raise errors.bad_count(f"{what} > REMOTE_DOMAIN_LIST_MAX")
    return found
