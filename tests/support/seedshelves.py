"""Machines that take seeds: agents that write files of shelves, libvirtds that keep what they were told to run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import msgspec
from pycdlib import PyCdlib

from clusterhost.control.operations import PutVolumeArgs, ReadVolumeArgs
from clusterhost.model.errors import InvalidOperation, NodeUnreachable
from clusterhost.service.seeds import Seeds
from clusterhost.service.told import Told
from clusterhost.service.volume_work import VolumeWork
from compat.libvirt import messages as lv
from compat.xmldoc import XmlDocument
from imagemgr.seedxml import NAMESPACE
from tests.support.clusters import Front
from tests.support.shelves import POOL, File, Shelf, Stocked, stock


def element(inner: str = "", attributes: str = "") -> str:
    """The metadata of a definition."""
    return f"<metadata><ch:seed xmlns:ch='{NAMESPACE}' {attributes}>{inner}</ch:seed></metadata><devices/>"


def told(iso: str) -> dict[str, Any]:
    """What a CD says, by file; documents are read."""
    found = {}
    cd = PyCdlib()
    cd.open_fp(BytesIO(iso.encode("latin-1")))
    for child in cd.list_children(joliet_path="/"):
        if not child.is_dir():
            name = child.file_identifier().decode("utf-16-be")
            out = BytesIO()
            cd.get_file_from_iso_fp(out, joliet_path=f"/{name}")
            found[name] = json.loads(out.getvalue()) if name != "user-data" else out.getvalue()
    cd.close()
    return found


@dataclass
class Node:
    """A machine that seeds go to.

    ran: documents that it was told to run; refuses: what its agent says; lost: why nobody hears what it has written."""

    shelf: Shelf
    ran: list[str] = field(default_factory=list)
    partial: bytes = b""
    refuses: str = ""
    lost: str = ""

    def __post_init__(self) -> None:
        machine: Any = self.shelf.machine
        usual, create = machine.operate, machine.do_domain_create_xml

        def operate(kind: str, args: bytes) -> bytes:
            return self.operate(kind, args) if kind.endswith("-volume") else usual(kind, args)

        def create_xml(args: Any) -> Any:
            self.ran.append(args.xml_desc)
            return create(args)

        machine.operate, machine.do_domain_create_xml = operate, create_xml
        machine.do_domain_has_managed_save_image = lambda args: lv.RemoteDomainHasManagedSaveImageRet(
            int(machine.find(args.dom).saved)
        )
        machine.do_domain_managed_save_remove = lambda args: setattr(machine.find(args.dom), "saved", False)

    def operate(self, kind: str, args: bytes) -> bytes:
        if kind == "read-volume":
            read = msgspec.msgpack.decode(args, type=ReadVolumeArgs)
            data = self.shelf.files[read.path.rpartition("/")[2]].content.encode("latin-1")
            return msgspec.msgpack.encode(data[read.offset : read.offset + read.length])
        if self.refuses:
            raise InvalidOperation(self.refuses)
        put = msgspec.msgpack.decode(args, type=PutVolumeArgs)
        self.partial = self.partial[: put.offset] + put.data
        if put.last:
            self.shelf.files[put.path.rpartition("/")[2]] = File(self.partial.decode("latin-1"))
            if self.lost:
                raise NodeUnreachable(self.lost)
        return msgspec.msgpack.encode(None)

    def seed(self, name: str) -> dict[str, Any]:
        """What a domain's CD there says, {} where there is none."""
        file = self.shelf.files.get(f"{name}-seed.iso")
        return told(file.content) if file is not None else {}

    def disks(self) -> list[str]:
        """Of what it was told to run last."""
        sources = XmlDocument.parse(self.ran[-1]).all("devices/disk/source")
        return [source.get("file", "") for source in sources]


@dataclass
class Seeded:
    """A cluster with one pool, where definitions may ask for seeds."""

    stocked: Stocked
    seeds: Seeds
    nodes: dict[str, Node]

    def names(self) -> set[str]:
        """Files of all nodes."""
        return {f"{node}/{name}" for node, shelf in self.stocked.shelves.items() for name in shelf.files}

    async def listed(self) -> list[str]:
        """What clients see."""
        self.stocked.volumes.listings.forget(POOL)
        return [held.shown for held in await self.stocked.volumes.listed(POOL)]


def seeded(front: Front) -> Seeded:
    """In the place of what the world has made; again after it has started anew."""
    stocked, context = stock(front), front.world.context
    work = VolumeWork(context, stocked.volumes)
    networking = front.world.networking
    before, found = context.seeds, Seeds(context, Told(context.cluster, networking), stocked.volumes, work)
    for told_by in (context.inventory.followers, context.inventory.watchers):
        told_by[:] = [found if each is before else each for each in told_by]  # type: ignore[index]
    context.seeds = found
    nodes = {}
    for name, shelf in stocked.shelves.items():
        kept = getattr(shelf, "node", None)
        shelf.node = nodes[name] = kept or Node(shelf)  # type: ignore[attr-defined]
    return Seeded(stocked, found, nodes)
