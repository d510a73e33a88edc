"""Ask libvirtd about one domain: up to seven pipelined calls, one report.  Sends nothing to the front end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from clusterhost.agent.errors import NO_DOMAIN, Unavailable, code_of
from clusterhost.agent.rpc import PROCEDURE, Done, Rpc, decoded
from clusterhost.control.messages import DomainReport
from compat.libvirt.messages import (
    RemoteDomainGetAutostartArgs,
    RemoteDomainGetInfoArgs,
    RemoteDomainGetOsTypeArgs,
    RemoteDomainGetStateArgs,
    RemoteDomainGetStateRet,
    RemoteDomainHasManagedSaveImageArgs,
    RemoteDomainIsPersistentArgs,
    RemoteDomainLookupByUuidArgs,
    RemoteNonnullDomain,
)
from compat.libvirt.xdr import Message

LOOKUP = "remote:DOMAIN_LOOKUP_BY_UUID"
OS_TYPE = "remote:DOMAIN_GET_OS_TYPE"
_STATE = "remote:DOMAIN_GET_STATE"
_INFO = "remote:DOMAIN_GET_INFO"
_PERSISTENT = "remote:DOMAIN_IS_PERSISTENT"
_SAVED = "remote:DOMAIN_HAS_MANAGED_SAVE_IMAGE"
_AUTOSTART = "remote:DOMAIN_GET_AUTOSTART"

_ARGS: dict[str, Callable[[RemoteNonnullDomain], Message]] = {
    LOOKUP: lambda dom: RemoteDomainLookupByUuidArgs(dom.uuid),
    _STATE: lambda dom: RemoteDomainGetStateArgs(dom, 0),
    _INFO: RemoteDomainGetInfoArgs,
    _PERSISTENT: RemoteDomainIsPersistentArgs,
    _SAVED: lambda dom: RemoteDomainHasManagedSaveImageArgs(dom, 0),
    _AUTOSTART: RemoteDomainGetAutostartArgs,
    OS_TYPE: RemoteDomainGetOsTypeArgs,
}

_SHUTOFF = 5


class After(Enum):
    """What libvirtd has just done with the domain: most of a report follows from it."""

    ANYTHING = ()
    DEFINED = (LOOKUP, _INFO, OS_TYPE)
    """It was not known before: it is persistent, off for no reason, and not to be started at boot."""
    UNDEFINED = (LOOKUP,)
    """It is gone, unless it runs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a domain: a report, that it is gone, or (both empty) that nobody could say."""

    report: DomainReport | None = None
    gone: bool = False


def handle(uuid: bytes) -> RemoteNonnullDomain:
    """A handle to ask with: libvirtd looks at its uuid alone."""
    return RemoteNonnullDomain("-", uuid, -1)


@dataclass(slots=True)
class _Asked:
    """One query under way."""

    left: int
    done: Callable[[dict[str, Any]], None]
    found: dict[str, Any] = field(default_factory=dict)

    def take(self, name: str) -> Done:
        def answered(ok: bool, payload: bytes, failure: str) -> None:
            if ok:
                with contextlib.suppress(Unavailable):
                    self.found[name] = decoded(name, payload)
            elif name == LOOKUP:
                self.found["gone"] = not failure and code_of(payload) == NO_DOMAIN
            self.left -= 1
            if not self.left:
                self.done(self.found)

        return answered


class Reporter:
    """Queries carry numbers: an answer that comes after that of a later query of the same domain is `late`.

    is_saved(name): whether the managed save file is there (libvirtd does not notice one that was put there).
    generation(uuid): the highest ordered."""

    def __init__(self, is_saved: Callable[[str], bool], generation: Callable[[bytes], int]) -> None:
        self._is_saved = is_saved
        self._generation = generation
        self._os_types: dict[bytes, str] = {}
        self._number = 0
        self._newest: dict[bytes, int] = {}

    def ask(
        self, rpc: Rpc, uuid: bytes, done: Callable[[Verdict, bool], None], after: After = After.ANYTHING
    ) -> None:
        """`done(verdict, late)` once; at once unknown when the connection is lost."""
        self._number += 1
        number = self._number

        def finished(found: dict[str, Any]) -> None:
            late = number < self._newest.get(uuid, 0)
            if not late:
                self._newest[uuid] = number
            verdict = self._verdict(uuid, found)
            if verdict.gone:
                self._os_types.pop(uuid, None)
            done(verdict, late)

        def looked(found: dict[str, Any]) -> None:
            if found.get("gone"):
                finished(found)
            elif after is After.DEFINED and _is_off(found):
                finished({**found, _STATE: RemoteDomainGetStateRet(_SHUTOFF, 0)})
            else:
                self._query(rpc, uuid, _ARGS, finished)

        if after is After.ANYTHING:
            self._query(rpc, uuid, _ARGS, finished)
        else:
            self._query(rpc, uuid, after.value, looked)

    def _query(
        self, rpc: Rpc, uuid: bytes, names: Iterable[str], done: Callable[[dict[str, Any]], None]
    ) -> None:
        wanted = [name for name in names if name != OS_TYPE or uuid not in self._os_types]
        asked = _Asked(len(wanted), done)
        dom = handle(uuid)
        rpc.cork()
        for name in wanted:
            program, procedure, _ = PROCEDURE[name]
            rpc.call(program, procedure, _ARGS[name](dom).to_bytes(), asked.take(name))
        rpc.uncork()

    def known_after(self, after: After, uuid: bytes, name: str) -> Verdict:
        """What is known, without its figures, of a domain that was just defined or undefined; what was asked of
        it before is late."""
        self._number += 1
        self._newest[uuid] = self._number
        if after is After.UNDEFINED:
            return Verdict(gone=True)
        saved, generation = self._is_saved(name), self._generation(uuid)
        return Verdict(DomainReport(uuid, name, state=_SHUTOFF, managed_save=saved, generation=generation))

    def forget(self) -> None:
        """Another libvirtd process answers from now on; numbers go on."""
        self._os_types.clear()

    def _verdict(self, uuid: bytes, found: dict[str, Any]) -> Verdict:
        if found.get("gone"):
            return Verdict(gone=True)
        if LOOKUP not in found or _STATE not in found:
            return Verdict()
        dom, state, info = found[LOOKUP].dom, found[_STATE], found.get(_INFO)
        if OS_TYPE in found:
            self._os_types[uuid] = found[OS_TYPE].type
        saved = _SAVED in found and bool(found[_SAVED].result)
        return Verdict(
            DomainReport(
                uuid=uuid,
                name=dom.name,
                id=dom.id,
                state=state.state,
                reason=state.reason,
                persistent=_PERSISTENT not in found or bool(found[_PERSISTENT].persistent),
                managed_save=saved or (dom.id == -1 and self._is_saved(dom.name)),
                max_memory=info.maxMem if info else 0,
                memory=info.memory if info else 0,
                vcpus=info.nrVirtCpu if info else 0,
                cpu_time=info.cpuTime if info else 0,
                autostart=_AUTOSTART in found and bool(found[_AUTOSTART].autostart),
                os_type=self._os_types.get(uuid, "hvm"),
                generation=self._generation(uuid),
            )
        )


def _is_off(found: dict[str, Any]) -> bool:
    if LOOKUP not in found or _INFO not in found:
        return False
    return bool(found[LOOKUP].dom.id == -1 and found[_INFO].state == _SHUTOFF)
