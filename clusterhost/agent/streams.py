"""Streams at a node: one libvirtd connection for each, windows both ways; a slow reader stalls its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from clusterhost.agent.errors import LibvirtRefused, Unavailable
from clusterhost.agent.filestreams import Download, Upload
from clusterhost.agent.filethreads import FileThread, Part
from clusterhost.agent.nodestream import NodeStream, SendBulk
from clusterhost.agent.rpc import Rpc
from clusterhost.agent.streamlines import Lines
from clusterhost.control import messages as m
from clusterhost.control.direct import Direct
from compat.libvirt import events
from compat.libvirt.messages import RemoteStorageVolDownloadArgs, RemoteStorageVolUploadArgs
from compat.libvirt.schema import BY_NAME, PROCEDURES
from compat.libvirt.streams import Direction

MAX_STREAMS = 256
_FILES: dict[tuple[int, int], type[RemoteStorageVolUploadArgs | RemoteStorageVolDownloadArgs]] = {
    (BY_NAME[f"remote:{name}"].program_id, BY_NAME[f"remote:{name}"].number): args
    for name, args in (
        ("STORAGE_VOL_UPLOAD", RemoteStorageVolUploadArgs),
        ("STORAGE_VOL_DOWNLOAD", RemoteStorageVolDownloadArgs),
    )
}
"""Calls whose streams are the bytes of a file."""

Answer = Callable[[bool, bytes, str], None]


class Streams:
    """All streams of this agent.  dial(readonly) makes a connection without keepalive: it may stay unread.

    host: where the front end is; has_files: we see the files that the node's libvirtd sees."""

    def __init__(
        self,
        dial: Callable[[bool], Awaitable[Rpc]],
        send: SendBulk,
        host: Callable[[], str],
        *,
        has_files: bool = False,
    ) -> None:
        self._dial = dial
        self._lines = Lines(host, self._arrived, self._line_lost)
        self._has_files = has_files
        self._send = send
        self._writers: dict[str, FileThread] = {}
        self._open: dict[int, NodeStream] = {}
        self._early: dict[int, list[tuple[m.StreamPacket, bytes | bytearray]]] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._kept: dict[int, list[Rpc]] = {}

    def open(self, message: m.OpenStream, payload: bytes, answer: Answer) -> None:
        """Make the call on a connection of its own; `answer` gets its reply."""
        if len(self._open) + len(self._opening) >= MAX_STREAMS:
            answer(False, f"{MAX_STREAMS} streams are open, more are not allowed".encode(), "busy")
            return
        self._early[message.id] = []
        task = asyncio.get_running_loop().create_task(self._opened(message, payload, answer))
        self._opening[message.id] = task
        task.add_done_callback(lambda _: self._opening.pop(message.id, None))

    def _arrived(self, message: m.Bulk, payload: bytes | bytearray) -> None:
        if isinstance(message, m.StreamPacket):
            self.packet(message, payload)
        elif isinstance(message, m.Credit):
            self.credited(message.id, message.bytes)

    def _line_lost(self, id: int) -> None:
        if stream := self._open.get(id):
            stream.close()

    def _sender(self, id: int, line: Direct) -> SendBulk:
        def send(message: m.Message, payload: bytes | memoryview) -> None:
            if not line.send(m.encode(message), payload):
                line.close()
                self._line_lost(id)

        return send

    def packet(self, packet: m.StreamPacket, payload: bytes | bytearray) -> None:
        """A packet from the front end."""
        if stream := self._open.get(packet.id):
            stream.packet(packet, payload)
        elif (early := self._early.get(packet.id)) is not None:
            early.append((packet, payload))

    def credited(self, id: int, count: int) -> bool:
        """Credit from the front end; False when it is for no stream."""
        stream = self._open.get(id)
        if stream is not None:
            stream.credited(count)
        return stream is not None

    def close(self) -> None:
        """The front end is gone."""
        for task in list(self._opening.values()):
            task.cancel()
        for stream in list(self._open.values()):
            stream.close()
        self._lines.close()
        for session in list(self._kept):
            self.close_session(session)
        self._early.clear()

    def close_session(self, session: int) -> None:
        """That client is gone, and with it what libvirtd ties to its connections."""
        for rpc in self._kept.pop(session, []):
            rpc.close("the client is gone")

    def _forget(self, id: int) -> None:
        self._open.pop(id, None)

    async def _opened(self, message: m.OpenStream, payload: bytes, answer: Answer) -> None:
        id = message.id
        with contextlib.ExitStack() as undo:
            try:
                thread = await self._file(message, payload)
                line = None
                if thread is not None:
                    undo.callback(thread.stop)
                    undo.callback(self._lines.end, id)
                    line = await self._lines.dial(message)
                rpc = await self._dial(message.readonly)
            except (Unavailable, LibvirtRefused) as error:
                self._early.pop(id, None)
                kind = error.kind if isinstance(error, Unavailable) else "libvirtd-down"
                answer(False, str(error).encode(), kind)
                return
            undo.pop_all()

        def answered(ok: bool, reply: bytes, failure: str) -> None:
            early = self._early.pop(id, [])
            if not ok:
                self._open.pop(id, None)
                stream.drop()
                rpc.on_lost = None
                rpc.close("the stream was not opened")
                self._lines.end(id)
            answer(ok, reply, failure)
            if ok:
                stream.begin()
                for packet, data in early:
                    self.packet(packet, data)

        serial = rpc.call(message.program, message.procedure, payload, answered)
        key = events.StreamKey(message.program, message.procedure, serial)
        rpc.connection.open_stream(key, Direction.BOTH, _sparse(message, payload))
        keep = bool(message.session)
        if keep:
            self._kept.setdefault(message.session, []).append(rpc)
        if thread is not None:
            kind_of = Upload if thread.part.writing else Download
            send = self._send if line is None else self._sender(id, line)
            stream: NodeStream = kind_of(id, rpc, key, send, lambda: self._forget(id), thread)
        else:
            stream = NodeStream(id, rpc, key, self._send, lambda: self._forget(id), keep=keep)
        self._open[id] = stream
        if line is not None and line.closed:
            stream.close()

    async def _file(self, message: m.OpenStream, payload: bytes) -> FileThread | None:
        """None when the bytes go through libvirtd."""
        args = _FILES.get((message.program, message.procedure))
        if not (self._has_files and message.file and args):
            return None
        asked = args.from_bytes(payload)
        writing = args is RemoteStorageVolUploadArgs
        part = Part(message.file, writing, asked.offset, asked.length, holes=_sparse(message, payload))
        # What was given up may still have a piece in hand, which belongs before what is written now.
        while before := self._writers.get(message.file):
            await asyncio.wait([before.ended])
        thread = FileThread(asyncio.get_running_loop(), part)
        if writing:
            self._writers[message.file] = thread
            thread.ended.add_done_callback(lambda _: self._writers.pop(message.file, None))
        try:
            if await thread.opened:
                return thread
        except asyncio.CancelledError:
            thread.stop()
            raise
        thread.stop()
        return None


def _sparse(message: m.OpenStream, payload: bytes) -> bool:
    """The call allows holes: its `flags`, always the last word, have the procedure's bit."""
    found = PROCEDURES.get((message.program, message.procedure))
    bit = found.sparse if found is not None else None
    return bool(bit and len(payload) >= 4 and int.from_bytes(payload[-4:], "big") & bit)
