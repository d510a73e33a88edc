"""The calls of `clusterhost image`, to a front end whose machines have shelves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clusterhost.service.image_admin import METHODS
from clusterhost.service.ports import Caller
from clusterhost.service.volume_work import VolumeWork
from tests.support.clusters import Front
from tests.support.shelves import POOL, Stocked, stock

DISK = "<devices><disk type='file'><source file='/images/{}'/><target dev='vda'/>{}</disk></devices>"


def stocked_in(front: Front) -> Stocked:
    """The cluster's one pool, as the command sees it."""
    stocked = stock(front)
    work = VolumeWork(front.world.context, stocked.volumes)
    front.world.storage = replace(
        front.world.storage, pools=stocked.pools, volumes=stocked.volumes, volume_work=work
    )
    return stocked


def with_overlay(front: Front) -> Stocked:
    """The same, and node n1 has a volume "base" and one "top" over it."""
    stocked = stocked_in(front)
    stocked.put("n1", "base")
    stocked.put("n1", "top", "top", backing="/images/base")
    return stocked


async def ask(front: Front, call: str, **args: object) -> Any:
    return await METHODS[f"image.{call}"](front.world, args, lambda *_: None)


async def states(stocked: Stocked, name: str) -> dict[str, str]:
    """Node -> state of its copy."""
    stocked.volumes.listings.forget(POOL)
    (held,) = [held for held in await stocked.volumes.all(POOL) if held.shown == name]
    return {copy.node: str(copy.state) for copy in held.copies}


async def begin(front: Front, node: str, name: str, disk: str, more: str = "") -> None:
    """A domain that runs on that node with this disk."""
    await front.define(name, caller=Caller(view=node), more=DISK.format(disk, more))
    assert (await front.begin(name, Caller(view=node))).ok


async def note(stocked: Stocked, name: str, **changes: Any) -> None:
    """Put another row in a volume's place."""
    await stocked.volumes.all(POOL)
    await stocked.volumes.put(replace(stocked.volumes.row(POOL, name), **changes))
