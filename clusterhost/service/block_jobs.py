"""Calls that change what a domain's disks are overlays of: bases that others need stay as they are.  Holds no state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clusterhost.model.domain import Domain
from clusterhost.model.errors import InvalidOperation, VolumeNotFound
from clusterhost.service.context import Context
from clusterhost.service.ports import Answer, Caller
from clusterhost.service.volumes import Volumes
from compat.libvirt.schema import Procedure
from compat.xmldoc import Element, XmlDocument

SHALLOW = 1
"""VIR_DOMAIN_BLOCK_COMMIT_SHALLOW: into the image right below."""

Image = tuple[str, str]
"""A path, and the index that the live XML gives it, which calls may use like `vda[1]`."""


class BlockJobs:
    """What a front end asks before a node is asked."""

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context = context
        self._volumes = volumes

    async def commit(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        """DOMAIN_BLOCK_COMMIT.  InvalidOperation: an image that it writes to, or merges, has other overlays."""
        return await self._context.tasks.finish(
            self._commit(caller, procedure, payload, uuid), "block commit"
        )

    async def revert(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        """DOMAIN_REVERT_TO_SNAPSHOT, which writes to the domain's disks.  InvalidOperation: one of them is a base."""
        return await self._context.tasks.finish(self._revert(caller, procedure, payload, uuid), "revert")

    async def _commit(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        assert procedure.args is not None
        args: Any = procedure.args.from_bytes(payload)
        domain = self._reachable(caller, uuid)
        if domain.active:
            images = images_of(await self._context.virt.live_xml(domain.node, uuid), args.disk)
            for path in _written(images, args.disk, args.top, args.base, args.flags):
                await self._refuse_others(path, [image for image, _ in images])
        return await self._pass_on(domain, procedure, payload)

    async def _refuse_others(self, path: str, chain: list[str]) -> None:
        try:
            pool, held = await self._volumes.by_path(path)
        except VolumeNotFound:
            return
        directory = self._volumes.pools.by_uuid(pool).pool.target.path
        others = [
            name
            for name in await self._volumes.chains.overlays(pool, held)
            if f"{directory}/{name}" not in chain
        ]
        if others:
            text = ", ".join(f"'{name}'" for name in others)
            raise InvalidOperation(
                f"volume '{held.shown}' is the base of {text}, so nothing can be committed to it"
            )

    async def _revert(self, caller: Caller, procedure: Procedure, payload: bytes, uuid: bytes) -> Answer:
        domain = self._reachable(caller, uuid)
        if not domain.active:
            await self._context.images.refuse_bases(await self._context.definition(domain), domain.node)
        return await self._pass_on(domain, procedure, payload)

    def _reachable(self, caller: Caller, uuid: bytes) -> Domain:
        domain = self._context.cluster.by_uuid(uuid, caller.view)
        self._context.reachable(domain.node)
        return domain

    async def _pass_on(self, domain: Domain, procedure: Procedure, payload: bytes) -> Answer:
        context = self._context
        context.cluster.begin(domain.uuid)
        try:
            self._volumes.chains.changing(domain.uuid)
            deadline = context.settings.calls.long_deadline or None
            return await context.virt.pass_on(domain.node, procedure, payload, domain.uuid, deadline)
        finally:
            context.cluster.end(domain.uuid)


def images_of(xml: str, disk: str) -> list[Image]:
    """The chain of a running domain's disk, which is named by its target or its path; the disk itself first."""
    for element in XmlDocument.parse(xml).all("devices/disk"):
        source, target = element.find("source"), element.find("target")
        paths = {_path(source), target.get("dev", "") if target is not None else ""}
        if disk in paths - {""}:
            return list(_down(element))
    return []


def _down(element: Element) -> Iterator[Image]:
    top: Element | None = element
    while top is not None and (path := _path(source := top.find("source"))):
        # The index of the disk itself is its source's, that of an image below its element's.
        index = (top if top is not element or source is None else source).get("index", "")
        yield path, index
        top = top.find("backingStore")


def _path(source: Element | None) -> str:
    return "" if source is None else source.get("file") or source.get("dev") or ""


def _written(images: list[Image], disk: str, top: str | None, base: str | None, flags: int) -> list[str]:
    """Images that are another content, or none, afterwards; nothing where libvirt says that a name is wrong."""

    def place(name: str | None, default: int) -> int:
        if not name:
            return default
        found = (i for i, (path, index) in enumerate(images) if name in (path, f"{disk}[{index}]"))
        return next(found, len(images))

    first = place(top, 0)
    last = place(base, first + 1 if flags & SHALLOW else len(images) - 1)
    return [path for path, _ in images[first + 1 : last + 1]] if last < len(images) else []
