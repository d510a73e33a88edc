"""A tiny libvirt per node, in memory: what outlives front ends in tests of use cases and of their crashes.
crashes.

A Machine is a node that outlives front ends; a FakeNodes is the control plane of one front end.  The wire
forms are the real ones.  `ran` notes where each domain's vCPUs run, and fails the test at the moment that two
nodes run one.
"""

from __future__ import annotations

import itertools
import re
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from clusterhost.control import messages as m
from clusterhost.control.operations import (
    DropArgs,
    ExportArgs,
    ExportResult,
    IdentifyArgs,
    ImportArgs,
    PeerSocketArgs,
)
from clusterhost.model.cellmap import format_set, from_bits
from clusterhost.model.errors import StaleGeneration
from compat.libvirt import messages as lv
from compat.libvirt import typedparams
from compat.libvirt.schema import BY_NAME, PROCEDURES
from tests.support.fakepools import FakePools, Refused

RUNNING, PAUSED, SHUTOFF = 1, 3, 5
LIFECYCLE = BY_NAME["remote:DOMAIN_EVENT_CALLBACK_LIFECYCLE"]
P2P, PERSIST, UNDEFINE, OFFLINE = 2, 8, 16, 1 << 10


class RunsTwice(AssertionError):
    """The one thing that must never happen."""


@dataclass
class Guest:
    """A domain at one machine."""

    uuid: bytes
    name: str
    xml: str = ""
    persistent: bool = True
    id: int = -1
    state: int = SHUTOFF
    reason: int = 0
    autostart: bool = False
    incoming: bool = False
    ready: bool = False
    session: int = 0
    saved: bool = False

    @property
    def active(self) -> bool:
        return self.id != -1


def domain_xml(name: str, uuid: bytes | None = None, memory_mib: int = 64, more: str = "") -> str:
    """A definition that places anywhere, unless `more` says otherwise."""
    identity = f"<uuid>{uuids.UUID(bytes=uuid)}</uuid>" if uuid else ""
    return (
        f"<domain type='qemu'><name>{name}</name>{identity}"
        f"<memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
        f"{more}</domain>"
    )


CAPABILITIES = (
    "<capabilities><host/><guest><os_type>hvm</os_type><arch name='x86_64'><machine>pc</machine>"
    "<emulator>/usr/bin/qemu</emulator><domain type='qemu'/></arch></guest></capabilities>"
)


def domain_capabilities(models: dict[str, str]) -> str:
    """models: name -> yes or no, whether it is usable."""
    listed = "".join(f"<model usable='{usable}'>{name}</model>" for name, usable in models.items())
    mode = f"<cpu><mode name='custom' supported='yes'>{listed}</mode></cpu>"
    return f"<domainCapabilities><domain>qemu</domain><arch>x86_64</arch>{mode}</domainCapabilities>"


class Machine(FakePools):
    """A node: its libvirtd, its agent's durable table.  `world` is all machines, for migrations."""

    def __init__(self, name: str, world: dict[str, Machine], memory_mib: int = 1024) -> None:
        super().__init__()
        self.name = name
        self.world = world
        world[name] = self
        self.memory_kib = memory_mib * 1024
        self.guests: dict[bytes, Guest] = {}
        self.ids = itertools.count(1)
        self.reachable = True
        self.refuses = False
        self.has_files = True
        self.boots = 1
        self.incarnation = 0
        self.table: dict[str, tuple[bool, bytes]] = {}
        self.generations: dict[bytes, int] = {}
        self.files: dict[str, str] = {}
        self.cpu_models: dict[str, str] = {}
        self.disks: dict[str, str] = {}
        self.executed: list[str] = []
        self.events: list[bytes] = []
        self.touched: list[bytes] = []
        self.twice: list[str] = []

    # -- for tests

    def power_cut(self) -> None:
        """Everything stops; definitions stay."""
        self.boots += 1
        self.ids = itertools.count(1)
        for guest in list(self.guests.values()):
            guest.id, guest.state, guest.incoming = -1, SHUTOFF, False
            if not guest.persistent:
                del self.guests[guest.uuid]

    def report(self, guest: Guest) -> m.DomainReport:
        found = re.search(r"<memory unit='MiB'>(\d+)<", guest.xml)
        memory = int(found[1]) * 1024 if found else 65536
        return m.DomainReport(
            uuid=guest.uuid,
            name=guest.name,
            id=guest.id,
            state=guest.state,
            reason=guest.reason,
            persistent=guest.persistent,
            managed_save=guest.saved,
            max_memory=memory,
            memory=memory,
            vcpus=1,
            autostart=guest.autostart,
            generation=self.generations.get(guest.uuid, 0),
        )

    def snapshot(self) -> m.Snapshot:
        facts = m.NodeFacts(
            hostname=self.name,
            memory_kib=self.memory_kib,
            cpus=4,
            capabilities=CAPABILITIES,
            domain_capabilities=[domain_capabilities(self.cpu_models)] if self.cpu_models else [],
            migration_address=f"addr-{self.name}",
            has_files=self.has_files,
            underlay=f"10.250.0.{self.name.lstrip('n') or 0}",
        )
        return m.Snapshot(0, facts, [self.report(guest) for guest in self.guests.values()], m.NodeStats())

    # -- what libvirtd does

    def emit(self, guest: Guest, event: int, detail: int = 0, id: int | None = None) -> None:
        handle = lv.RemoteNonnullDomain(guest.name, guest.uuid, guest.id if id is None else id)
        body = lv.RemoteDomainEventLifecycleMsg(handle, event, detail)
        self.events.append(lv.RemoteDomainEventCallbackLifecycleMsg(7, body).to_bytes())
        self.touched.append(guest.uuid)

    def run(self, guest: Guest) -> None:
        for other in self.world.values():
            twin = other.guests.get(guest.uuid)
            if other is not self and twin is not None and twin.state == RUNNING:
                self.twice.append(guest.name)
                raise RunsTwice(f"{guest.name} runs on {other.name} and {self.name}")
        guest.state = RUNNING

    def boot(self, guest: Guest, reason: int = 1) -> None:
        if guest.active:
            raise Refused("domain is already running")
        guest.id, guest.reason, guest.saved = next(self.ids), reason, False
        self.run(guest)
        self.emit(guest, 4)
        self.emit(guest, 2)

    def stop(self, guest: Guest, detail: int = 1) -> None:
        if not guest.active:
            raise Refused("domain is not running")
        number, guest.id, guest.state, guest.incoming = guest.id, -1, SHUTOFF, False
        if detail == 1:
            self.emit(guest, 6, 2, number)
        self.emit(guest, 5, detail)
        if not guest.persistent:
            del self.guests[guest.uuid]

    def end_session(self, session: int) -> None:
        """That client's connection is closed: its incoming guests die, its outgoing ones are left as they
        are."""
        for guest in list(self.guests.values()):
            if guest.session == session and session:
                guest.session = 0
                if guest.incoming:
                    self.stop(guest, 5)

    def execute(self, program: int, number: int, payload: bytes, session: int) -> bytes:
        procedure = PROCEDURES[program, number]
        self.executed.append(procedure.name)
        doer: Callable[..., Any] = getattr(self, "do_" + procedure.name.lower())
        args = procedure.args.from_bytes(payload) if procedure.args else None
        answer = doer(args, session) if "MIGRATE" in procedure.name else doer(args)
        return answer.to_bytes() if answer is not None else b""

    def find(self, handle: Any) -> Guest:
        guest = self.guests.get(handle.uuid)
        if guest is None:
            raise Refused(f"Domain not found: {handle.name}")
        return guest

    def handle(self, guest: Guest) -> lv.RemoteNonnullDomain:
        return lv.RemoteNonnullDomain(guest.name, guest.uuid, guest.id)

    def parse(self, xml: str) -> tuple[str, bytes]:
        name = re.search(r"<name>(.*?)</name>", xml)
        uuid = re.search(r"<uuid>(.*?)</uuid>", xml)
        if name is None:
            raise Refused("XML error: missing name")
        return name[1], uuids.UUID(uuid[1]).bytes if uuid else uuids.uuid4().bytes

    def do_domain_define_xml(self, args: Any) -> Any:
        name, uuid = self.parse(args.xml)
        guest = self.guests.get(uuid)
        detail = 1 if guest is not None and guest.persistent else 0
        if guest is None:
            guest = self.guests[uuid] = Guest(uuid, name)
        guest.xml, guest.persistent = args.xml, True
        self.emit(guest, 0, detail)
        return lv.RemoteDomainDefineXmlRet(self.handle(guest))

    def do_domain_define_xml_flags(self, args: Any) -> Any:
        return self.do_domain_define_xml(args)

    def do_connect_domain_xml_to_native(self, args: Any) -> None:
        raise Refused("(domain_definition):1: what libxml2 says")

    def do_domain_undefine(self, args: Any) -> None:
        guest = self.find(args.dom)
        guest.persistent = False
        if not guest.active:
            del self.guests[guest.uuid]
        self.emit(guest, 1)

    def do_domain_undefine_flags(self, args: Any) -> None:
        self.do_domain_undefine(args)

    def do_domain_create(self, args: Any) -> None:
        self.boot(self.find(args.dom))

    def do_domain_create_with_flags(self, args: Any) -> Any:
        guest = self.find(args.dom)
        self.boot(guest)
        return lv.RemoteDomainCreateWithFlagsRet(self.handle(guest))

    def do_domain_create_xml(self, args: Any) -> Any:
        name, uuid = self.parse(args.xml_desc)
        guest = self.guests.setdefault(uuid, Guest(uuid, name, args.xml_desc, persistent=False))
        self.boot(guest)
        return lv.RemoteDomainCreateXmlRet(self.handle(guest))

    def do_domain_destroy(self, args: Any) -> None:
        self.stop(self.find(args.dom))

    def do_domain_suspend(self, args: Any) -> None:
        guest = self.find(args.dom)
        guest.state, guest.reason = PAUSED, 1
        self.emit(guest, 3)

    def do_domain_resume(self, args: Any) -> None:
        guest = self.find(args.dom)
        if guest.incoming or not guest.active:
            raise Refused("not now")
        self.run(guest)
        self.emit(guest, 4)

    def do_domain_rename(self, args: Any) -> Any:
        guest = self.find(args.dom)
        self.emit(guest, 1, 1)
        guest.name = args.new_name
        self.emit(guest, 0, 2)
        return lv.RemoteDomainRenameRet(0)

    def do_domain_set_autostart(self, args: Any) -> None:
        self.find(args.dom).autostart = bool(args.autostart)

    def do_domain_get_state(self, args: Any) -> Any:
        guest = self.find(args.dom)
        return lv.RemoteDomainGetStateRet(guest.state, guest.reason)

    def do_domain_get_xml_desc(self, args: Any) -> Any:
        return lv.RemoteDomainGetXmlDescRet(self.find(args.dom).xml)

    def do_domain_pin_vcpu_flags(self, args: Any) -> None:
        """Of the first virtual CPU; what runs and its definition are one here."""
        guest = self.find(args.dom)
        numbers = format_set(from_bits(args.cpumap))
        guest.xml = re.sub(r"(<vcpupin vcpu='0' cpuset=')[^']*", rf"\g<1>{numbers}", guest.xml)

    def do_domain_set_metadata(self, args: Any) -> None:
        guest = self.find(args.dom)
        guest.xml = re.sub(r"<metadata>.*</metadata>", "", guest.xml)
        if args.metadata:
            inside = args.metadata.replace("<placement>", f"<placement xmlns='{args.uri}'>", 1)
            guest.xml = guest.xml.replace("</domain>", f"<metadata>{inside}</metadata></domain>")

    def do_domain_abort_job(self, args: Any) -> None:
        self.find(args.dom)

    def do_domain_get_job_stats(self, args: Any) -> Any:
        return lv.RemoteDomainGetJobStatsRet(0, [])

    def do_domain_save_image_get_xml_desc(self, args: Any) -> Any:
        if args.file not in self.files:
            raise Refused(f"cannot open file '{args.file}'")
        return lv.RemoteDomainSaveImageGetXmlDescRet(self.files[args.file])

    def do_domain_restore(self, args: Any) -> None:
        xml = getattr(args, "from_", None) or args.__getattribute__(args.__struct_fields__[0])
        name, uuid = self.parse(self.files[xml])
        self.boot(self.guests.setdefault(uuid, Guest(uuid, name, self.files[xml], persistent=False)), 3)

    # -- migration, protocol 3

    def do_domain_migrate_begin3_params(self, args: Any, session: int) -> Any:
        guest = self.find(args.dom)
        if not guest.active and not args.flags & OFFLINE:
            raise Refused("domain is not running")
        guest.session = session
        return lv.RemoteDomainMigrateBegin3ParamsRet(b"c", guest.xml)

    def do_domain_migrate_prepare3_params(self, args: Any, session: int) -> Any:
        self.prepare(typedparams.get(args.params, "destination_xml"), session)
        uri = typedparams.get(args.params, "migrate_uri") or f"tcp://{self.name}"
        return lv.RemoteDomainMigratePrepare3ParamsRet(b"c", f"{uri}:49152")

    def prepare(self, xml: str, session: int) -> Guest:
        if self.refuses:
            raise Refused("no room for a guest that arrives")
        name, uuid = self.parse(xml)
        guest = self.guests.get(uuid)
        if guest is not None and guest.active:
            raise Refused("domain is already active here")
        if guest is None:
            guest = self.guests[uuid] = Guest(uuid, name, xml, persistent=False)
        guest.id, guest.state, guest.reason = next(self.ids), PAUSED, 11
        guest.incoming, guest.session, guest.ready = True, session, False
        self.touched.append(uuid)
        return guest

    def do_domain_migrate_perform3_params(self, args: Any, session: int) -> Any:
        guest = self.find(args.dom)
        if args.flags & P2P:
            self.peer2peer(guest, args)
            return lv.RemoteDomainMigratePerform3ParamsRet(b"")
        target = re.search(r"addr-(\w+)", typedparams.get(args.params, "migrate_uri") or "")
        self.send(guest, self.world[target[1]] if target else None)
        return lv.RemoteDomainMigratePerform3ParamsRet(b"c")

    def send(self, guest: Guest, target: Machine | None) -> None:
        copy = target.guests.get(guest.uuid) if target is not None else None
        if target is None or not target.reachable or copy is None or not copy.incoming:
            raise Refused("unable to connect to the destination")
        guest.state, guest.reason = PAUSED, 2
        self.emit(guest, 3, 1)
        copy.ready = True

    def peer2peer(self, guest: Guest, args: Any) -> None:
        target = self.world[(args.dconnuri or "").lower().rsplit("%2f", 1)[-1]]
        target.prepare(guest.xml, 0)
        try:
            self.send(guest, target)
        except Refused:
            target.guests.pop(guest.uuid, None)
            raise
        target.arrive(target.guests[guest.uuid], args.flags)
        self.leave(guest, args.flags)

    def arrive(self, guest: Guest, flags: int) -> None:
        guest.incoming, guest.session, guest.reason = False, 0, 2
        self.run(guest)
        self.emit(guest, 4, 1)
        self.emit(guest, 2, 1)
        if flags & PERSIST and not guest.persistent:
            guest.persistent = True
            self.emit(guest, 0)

    def leave(self, guest: Guest, flags: int) -> None:
        self.stop(guest, 3)
        if flags & UNDEFINE and guest.persistent:
            guest.persistent = False
            del self.guests[guest.uuid]
            self.emit(guest, 1)

    def do_domain_migrate_finish3_params(self, args: Any, session: int) -> Any:
        name = typedparams.get(args.params, "destination_name")
        guest = next((one for one in self.guests.values() if one.name == name and one.incoming), None)
        if guest is None:
            raise Refused(f"no incoming domain {name}")
        if args.cancelled or not guest.ready:
            self.stop(guest, 5)
            raise Refused("migration was cancelled")
        self.arrive(guest, args.flags)
        return lv.RemoteDomainMigrateFinish3ParamsRet(self.handle(guest), b"c")

    def do_domain_migrate_confirm3_params(self, args: Any, session: int) -> None:
        guest = self.find(args.dom)
        guest.session = 0
        if args.cancelled:
            if guest.state == PAUSED and guest.reason == 2:
                self.run(guest)
                self.emit(guest, 4, 1)
            return
        self.leave(guest, args.flags)

    # -- the agent's own operations

    def operate(self, kind: str, args: bytes) -> bytes:
        decode = msgspec.msgpack.decode
        if kind == "export":
            guest = self.guests.get(decode(args, type=ExportArgs).uuid)
            if guest is None:
                raise Refused("no domain with matching uuid")
            return msgspec.msgpack.encode(ExportResult(guest.xml))
        if kind == "import":
            self.do_domain_define_xml(
                lv.RemoteDomainDefineXmlArgs(decode(args, type=ImportArgs).definition.xml)
            )
        if kind == "drop":
            self.drop(decode(args, type=DropArgs))
        if kind == "identify":
            if not self.has_files:
                raise Refused("the agent of this node does not run on it and sees none of its files")
            paths = decode(args, type=IdentifyArgs).paths
            return msgspec.msgpack.encode([self.disks.get(path, "") for path in paths])
        if kind == "peer-socket":
            return msgspec.msgpack.encode(f"/peers/{decode(args, type=PeerSocketArgs).peer}")
        return b""

    def drop(self, args: DropArgs) -> None:
        guest = self.guests.get(args.uuid)
        if guest is None:
            return
        if guest.active and args.destroy:
            self.stop(guest)
        if not guest.active and guest.uuid in self.guests:
            del self.guests[guest.uuid]
            self.emit(guest, 1)

    def once(
        self, op: str, domain: bytes | None, generation: int, act: Callable[[], bytes]
    ) -> tuple[bool, bytes, bool]:
        """ok, payload, replayed: the durable operation table."""
        if op in self.table:
            return (*self.table[op], True)
        if op and domain is not None:
            if generation < self.generations.get(domain, 0):
                raise StaleGeneration(f"node {self.name} knows generation {self.generations[domain]}")
            self.generations[domain] = generation
        try:
            outcome = (True, act())
        except Refused as error:
            outcome = (
                False,
                lv.VirNetMessageError(1, 10, str(error), 2, None, None, None, None, 0, 0, None).to_bytes(),
            )
        if op:
            self.table[op] = outcome
        return (*outcome, False)
