"""Answer the `clusterhost` command: JSON lines on a unix socket.  Knows no noun: a table has the calls.

A client sends ``{"call": "node.list", "args": {}}``.  It gets any number of ``{"progress": [1, 4, "x"]}``, then
``{"result": ...}`` or ``{"error": {"kind": "NodeNotFound", "text": "..."}}``; it may then send the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from clusterhost.config import Settings
from clusterhost.model.errors import ClusterError

T = TypeVar("T")
Progress = Callable[[int, int, str], None]
Method = Callable[[Any, dict[str, Any], Progress], Awaitable[object]]

LINE_LIMIT = 8 * 1024 * 1024
"""Bytes of one request: a domain's XML with room to spare."""

log = structlog.get_logger("clusterhost.admin")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a client."""

    call: str
    args: dict[str, Any] = {}


class SocketInUse(Exception):
    """Another front end already answers on the admin socket."""


class AdminServer:
    """Serves METHODS of service.admin (or another table) to whoever may open the socket: root, mode 0600."""

    def __init__(self, settings: Settings, world: Any, methods: Mapping[str, Method] | None = None) -> None:
        self.path = settings.cluster.admin_socket
        self._world = world
        self._methods = methods if methods is not None else _service_methods()
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen; SocketInUse when another front end does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _clear(self.path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self.path))
        finally:
            os.umask(before)
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def stop(self) -> None:
        """Stop listening, drop clients; calls under way are cancelled."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        while left := list(self._tasks):
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        self._listener.close()
        self._listener = None
        self.path.unlink(missing_ok=True)

    def _track(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection, _ = listener.accept()
            # Closed here too: a task that is cancelled before its first step runs nothing of its own.
            self._track(self._client(connection)).add_done_callback(partial(_close, connection))

    async def _client(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT)
        try:
            await self._converse(reader, writer)
        except ConnectionError:
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                writer.write(_error("InvalidArgument", f"a request is longer than {LINE_LIMIT} bytes"))
                return
            if not line:
                return
            # What was begun goes on when the client is gone: a drain must not stop half way because of ^C.
            writer.write(await asyncio.shield(self._track(self._answer(line, writer))))
            await writer.drain()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> bytes:
        def progress(done: int, total: int, what: str) -> None:
            if not writer.is_closing():
                writer.write(_line({"progress": [done, total, what]}))

        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError as error:
            return _error("InvalidArgument", f"not a request: {error}")
        method = self._methods.get(request.call)
        if method is None:
            return _error(
                "Unsupported", f"no call '{request.call}'; known: {', '.join(sorted(self._methods))}"
            )
        try:
            return _line({"result": await method(self._world, request.args, progress)})
        except ClusterError as error:
            return _error(type(error).__name__, str(error))
        except Exception as error:  # the edge of the process: a mistake in one call must not end the others
            log.exception("admin call failed", call=request.call)
            return _error("Internal", f"{request.call} failed: {type(error).__name__}: {error}")


def _service_methods() -> Mapping[str, Method]:
    from clusterhost.service import admin

    methods: Mapping[str, Method] = admin.METHODS
    return methods


def _close(connection: socket.socket, _: asyncio.Task[None]) -> None:
    connection.close()


def _clear(path: Path) -> None:
    """Remove the socket of a front end that is dead; SocketInUse when it lives."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SocketInUse(f"another front end answers on {path}")


def _line(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=str) + b"\n"


def _error(kind: str, text: str) -> bytes:
    return _line({"error": {"kind": kind, "text": text}})
