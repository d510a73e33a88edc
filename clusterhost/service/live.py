"""Move a running domain by ourselves (`domain move`, drain): the steps a libvirt client makes, made by us."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import structlog

from clusterhost.model.domain import Domain
from clusterhost.model.errors import ClusterError, InvalidOperation, NodeError
from clusterhost.service.context import Context
from clusterhost.service.disks import COPY_STORAGE
from clusterhost.service.migration import Migrations
from clusterhost.service.ports import Caller, Progress
from clusterhost.service.steps import PERSIST_DEST, UNDEFINE_SOURCE
from clusterhost.service.virt import error_text, handle
from compat.libvirt import messages
from compat.libvirt.errors import XdrError
from compat.libvirt.schema import BY_NAME
from compat.libvirt.typedparams import to_params
from compat.libvirt.xdr import Message

LIVE = 1 << 0
CHANGE_PROTECTION = 1 << 8
ABORT_ON_ERROR = 1 << 12
"""Bits of VIR_MIGRATE_*."""

OWN_SESSIONS = 1 << 40
"""Numbers of sessions of our own; clients' start at 1."""
FIRST_LOOK, POLL = 0.1, 0.5
"""Seconds before the first look at how far it is, and the most between two: many moves take less than a second."""

log = structlog.get_logger("clusterhost.migration")


@dataclass(slots=True)
class _Drive:
    """One move being driven."""

    domain: Domain
    here: Caller
    there: Caller
    flags: int
    values: dict[str, int | float | str | bool] = field(default_factory=dict)
    cookie: bytes = b""


class LiveMover:
    """Drives Migrations as a client would."""

    def __init__(self, context: Context, migrations: Migrations) -> None:
        self._context = context
        self._migrations = migrations
        self._sessions = itertools.count(OWN_SESSIONS)

    async def move(
        self, uuid: bytes, target: str, who: str, progress: Progress, *, copy_storage: str = ""
    ) -> None:
        """Move it to `target` (copy_storage: "all" or "inc", with its disks); NodeError is the refusal of a
        libvirtd, with the domain where it was."""
        context = self._context
        domain = context.cluster.by_uuid(uuid)
        if not domain.active:
            raise InvalidOperation(f"domain '{domain.name}' is not running")
        if domain.node == target:
            return
        context.reachable(target)
        session = next(self._sessions)
        flags = LIVE | CHANGE_PROTECTION | ABORT_ON_ERROR | COPY_STORAGE[copy_storage]
        if domain.persistent:
            flags |= PERSIST_DEST | UNDEFINE_SOURCE
        drive = _Drive(domain, Caller(None, False, session, who), Caller(target, False, session, who), flags)
        watch = asyncio.create_task(self._watch(domain, progress))
        try:
            await self._drive(drive)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            context.nodes.close_session(session)
            self._migrations.closed(session)
        progress(1, 1, f"{domain.name} runs on {target}")

    async def _drive(self, drive: _Drive) -> None:
        begun = messages.RemoteDomainMigrateBegin3ParamsRet.from_bytes(
            await self._step(
                drive.here,
                "BEGIN3_PARAMS",
                messages.RemoteDomainMigrateBegin3ParamsArgs(handle(drive.domain), [], drive.flags),
            )
        )
        drive.cookie = begun.cookie_out
        drive.values = {"destination_name": drive.domain.name, "destination_xml": begun.xml}
        try:
            await self._prepare(drive)
        except ClusterError:
            await self._confirm(drive, cancelled=True)
            raise
        failure: ClusterError | None = None
        try:
            await self._perform(drive)
        except ClusterError as error:
            failure = error
        try:
            await self._finish(drive, cancelled=failure is not None)
        except ClusterError as error:
            failure = failure or error
        await self._confirm(drive, cancelled=failure is not None)
        if failure is not None:
            raise failure

    async def _prepare(self, drive: _Drive) -> None:
        args = messages.RemoteDomainMigratePrepare3ParamsArgs(
            to_params(drive.values), drive.cookie, drive.flags
        )
        answer = messages.RemoteDomainMigratePrepare3ParamsRet.from_bytes(
            await self._step(drive.there, "PREPARE3_PARAMS", args)
        )
        drive.cookie = answer.cookie_out
        del drive.values["destination_xml"]
        if answer.uri_out:
            drive.values["migrate_uri"] = answer.uri_out

    async def _perform(self, drive: _Drive) -> None:
        args = messages.RemoteDomainMigratePerform3ParamsArgs(
            handle(drive.domain), None, to_params(drive.values), drive.cookie, drive.flags
        )
        answer = await self._step(drive.here, "PERFORM3_PARAMS", args)
        drive.cookie = messages.RemoteDomainMigratePerform3ParamsRet.from_bytes(answer).cookie_out

    async def _finish(self, drive: _Drive, *, cancelled: bool) -> None:
        args = messages.RemoteDomainMigrateFinish3ParamsArgs(
            to_params(drive.values), drive.cookie, drive.flags, int(cancelled)
        )
        answer = await self._step(drive.there, "FINISH3_PARAMS", args)
        try:
            drive.cookie = messages.RemoteDomainMigrateFinish3ParamsRet.from_bytes(answer).cookie_out
        except XdrError:
            drive.cookie = b""  # a cancelled FINISH answers with nothing to tell

    async def _confirm(self, drive: _Drive, *, cancelled: bool) -> None:
        args = messages.RemoteDomainMigrateConfirm3ParamsArgs(
            handle(drive.domain), [], drive.cookie, drive.flags, int(cancelled)
        )
        try:
            await self._step(drive.here, "CONFIRM3_PARAMS", args)
        except ClusterError as error:
            # What became of it is settled by both ends' word, not by this answer.
            log.warning("confirm failed", domain=drive.domain.name, reason=str(error))

    async def _step(self, caller: Caller, name: str, args: Message) -> bytes:
        procedure = BY_NAME[f"remote:DOMAIN_MIGRATE_{name}"]
        answer = await self._migrations.step(caller, procedure, args.to_bytes())
        if not answer.ok:
            raise NodeError(answer.payload, error_text(answer.payload))
        return answer.payload

    async def _watch(self, domain: Domain, progress: Progress) -> None:
        pause = FIRST_LOOK
        while True:
            await asyncio.sleep(pause)
            pause = min(POLL, 2 * pause)
            try:
                done, total = await self._context.virt.job_progress(domain.node, domain.uuid)
            except ClusterError:
                continue  # before it began, or after it ended
            if total:
                progress(done, total, f"{domain.name}: {done >> 20} of {total >> 20} MiB")
