"""The composition root: the one place that builds and wires everything.  Decides nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import cast

import structlog

from clusterhost import notify
from clusterhost.config import Settings
from clusterhost.control import keys
from clusterhost.control.hub import Hub, HubSettings
from clusterhost.frontend.admin import AdminServer
from clusterhost.frontend.libvirt.frontend import LibvirtFrontEnd
from clusterhost.frontend.libvirt.hostview import HostView
from clusterhost.model.errors import StoreUnavailable
from clusterhost.service.ports import HubHandler
from clusterhost.service.world import ControlPlane, World, build
from clusterhost.store.crash import check_armed
from clusterhost.store.store import Store

STORE_WAIT = 10.0
"""Seconds to wait for a front end before us to let go of the store."""
NO_DEADLINE = 1e9

log = structlog.get_logger("clusterhost.daemon")


async def serve(settings: Settings) -> None:
    """Run the front end until SIGTERM or SIGINT, or until another front end takes the store over."""
    stop = _on_signals()
    async with AsyncExitStack() as stack:
        world = await open_world(settings, stack)
        front_end = LibvirtFrontEnd(settings, world)
        await front_end.start()
        stack.push_async_callback(front_end.stop)
        admin = AdminServer(settings, world)
        await admin.start()
        stack.push_async_callback(admin.stop)
        # What is there now stays: looking through it for garbage would stop every client for some 20 ms.
        gc.collect()
        gc.freeze()
        notify.ready(f"cluster {settings.cluster.name}, epoch {world.store.epoch}")
        log.info("serving", cluster=settings.cluster.name, epoch=world.store.epoch)
        feeder = asyncio.create_task(_feed_watchdog())
        stack.callback(feeder.cancel)
        superseded = asyncio.create_task(world.ledger.superseded.wait())
        stack.callback(superseded.cancel)
        stopped = asyncio.create_task(stop.wait())
        stack.callback(stopped.cancel)
        await asyncio.wait([superseded, stopped], return_when=asyncio.FIRST_COMPLETED)
        notify.stopping()
    if world.ledger.superseded.is_set():
        raise StoreUnavailable("another front end took the store over; this one has stopped")


async def open_world(settings: Settings, stack: AsyncExitStack) -> World:
    """Store, control plane, use cases; closed by `stack` in the opposite order."""
    check_armed(os.environ)
    settings.cluster.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = keys.load_or_make(settings.control.key_file)
    store = await Store.open(settings.store.url, wait=STORE_WAIT, now=time.time())
    stack.push_async_callback(store.close)
    hub_settings = HubSettings(
        control=settings.control.control,
        bulk=settings.control.bulk,
        direct=settings.control.direct,
        deadline=settings.calls.deadline or NO_DEADLINE,
    )
    hubs: list[Hub] = []

    def connect(handler: HubHandler) -> ControlPlane:
        hubs.append(Hub(hub_settings, pair, handler, time.time))
        return cast(ControlPlane, hubs[0])  # `call` and `operate` take their options as **options

    world = await build(settings, store, connect)
    world.host = host = HostView(world.cluster, settings.calls.deadline or NO_DEADLINE)
    world.context.cell_map = host.cell_map
    await hubs[0].start()
    stack.push_async_callback(world.stop)
    stack.push_async_callback(hubs[0].stop)
    world.start()
    return world


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _feed_watchdog() -> None:
    interval = notify.watchdog_interval()
    while interval:
        notify.alive()
        await asyncio.sleep(interval)
