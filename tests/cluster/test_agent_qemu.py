"""An agent before a real libvirtd with QEMU guests: restarts, autodestroy, streams, files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio

from clusterhost.agent.errors import text_of
from clusterhost.control import messages as m
from clusterhost.control import operations as ops
from clusterhost.control.directs import Directs
from clusterhost.control.hubstreams import HubStream
from clusterhost.control.nodelink import NodeLink
from clusterhost.model.errors import ClusterError
from compat.libvirt import messages as wire
from tests.support.control import ControlPlane, PrivateLibvirtd, number

pytestmark = pytest.mark.real
UUID_TEXT = "21111111-2222-3333-4444-555555555555"
UUID_BYTES = UUID(UUID_TEXT).bytes
RUNNING, SHUTOFF = 1, 5
AUTODESTROY = 2
MIB = 1024 * 1024
FILE = "/var/lib/libvirt/images/v.img"


def xml_of(name: str, os_extra: str = "") -> str:
    return f"""<domain type='qemu'><name>{name}</name><uuid>{UUID_TEXT}</uuid>
      <memory unit='MiB'>32</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type>{os_extra}</os><features><acpi/></features>
      <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/></devices>
      </domain>"""


@pytest.fixture
def libvirtd() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@pytest.fixture
def other_libvirtd() -> Iterator[PrivateLibvirtd]:
    daemon = PrivateLibvirtd()
    yield daemon
    daemon.close()


@pytest_asyncio.fixture
async def up(tmp_path: Path, libvirtd: PrivateLibvirtd) -> AsyncIterator[ControlPlane]:
    """With agent n1 on its node, before qemu:///system."""
    async with ControlPlane(tmp_path) as plane:
        plane.agent("n1", libvirtd.uri("qemu", "/system"), inside=libvirtd)
        await plane.up("n1")
        yield plane


def handle(uuid: bytes = UUID_BYTES) -> wire.RemoteNonnullDomain:
    return wire.RemoteNonnullDomain("-", uuid, -1)


async def define(plane: ControlPlane, xml: str) -> None:
    args = wire.RemoteDomainDefineXmlFlagsArgs(xml, 0)
    await plane.call("n1", "remote:DOMAIN_DEFINE_XML_FLAGS", args, report=UUID_BYTES)


async def start(plane: ControlPlane, node: str = "n1") -> m.DomainReport:
    args = wire.RemoteDomainCreateArgs(handle()).to_bytes()
    answer = await plane.hub.call(node, *number("remote:DOMAIN_CREATE"), args, report=UUID_BYTES)
    assert answer.ok, text_of(answer.payload)
    assert answer.report is not None
    return answer.report


async def test_domains_and_their_ids_outlive_a_restart_of_libvirtd_without_a_false_event(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    await define(up, xml_of("d1"))
    report = await start(up)
    assert (report.state, report.id) == (RUNNING, 1)
    up.handler.told.clear()
    libvirtd.stop_libvirtd()
    await up.handler.until(lambda: not up.handler.beats[-1].virt_up)
    libvirtd.start()
    snapshot = await up.up("n1")
    assert [(d.name, d.state, d.id) for d in snapshot.domains] == [("d1", RUNNING, 1)]
    assert up.handler.values("gone") == up.handler.values("lost") == up.handler.values("event") == []
    assert {r.state for r in up.handler.values("report")} <= {RUNNING}


async def test_what_is_tied_to_a_clients_connection_ends_with_its_session(up: ControlPlane) -> None:
    args = wire.RemoteDomainCreateXmlArgs(xml_of("d1"), AUTODESTROY)
    await up.call("n1", "remote:DOMAIN_CREATE_XML", args, session=9, report=UUID_BYTES)
    assert up.handler.values("report")[-1].state == RUNNING
    up.hub.close_session(9)
    await up.handler.until(lambda: UUID_BYTES in up.handler.values("gone"))


@pytest.mark.slow
async def test_sessions_end_when_the_front_end_is_away_for_ten_seconds(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    args = wire.RemoteDomainCreateXmlArgs(xml_of("d1"), AUTODESTROY)
    await up.call("n1", "remote:DOMAIN_CREATE_XML", args, session=9, report=UUID_BYTES)
    up.hub.set_keys({}, {})
    await asyncio.sleep(8)
    assert "d1" in libvirtd.virsh("list", "--name", uri=libvirtd.uri("qemu", "/system"))
    await asyncio.sleep(4)
    assert "d1" not in libvirtd.virsh("list", "--name", uri=libvirtd.uri("qemu", "/system"))


async def test_a_new_epoch_ends_the_sessions_of_the_old_front_end(up: ControlPlane) -> None:
    args = wire.RemoteDomainCreateXmlArgs(xml_of("d1"), AUTODESTROY)
    await up.call("n1", "remote:DOMAIN_CREATE_XML", args, session=9, report=UUID_BYTES)
    up.handler.epoch += 1
    up.hub.disconnect("n1")
    await up.handler.until(
        lambda: up.handler.values("snapshot")[-1].domains == [] or up.handler.values("gone")
    )


async def test_monitor_events_come_only_while_somebody_wants_them(up: ControlPlane) -> None:
    event = number("qemu:DOMAIN_MONITOR_EVENT")
    await define(up, xml_of("d1"))
    await start(up)
    assert event not in [value[:2] for value in up.handler.values("event")]
    up.hub.subscribe(monitor_events=True)
    await asyncio.sleep(0.2)
    await up.call("n1", "remote:DOMAIN_RESET", wire.RemoteDomainResetArgs(handle(), 0))
    await up.handler.until(lambda: event in [value[:2] for value in up.handler.values("event")])


class Sink:
    """A StreamSink that passes on what it gets only when it is told to."""

    def __init__(self, *, greedy: bool) -> None:
        self.greedy = greedy
        self.stream: Any = None
        self.data = bytearray()
        self.owed = 0
        self.kinds: list[str] = []
        self.over = asyncio.Event()

    def packet(self, packet: m.StreamPacket, payload: bytes) -> None:
        self.kinds.append(packet.kind)
        self.data += payload
        self.owed += len(payload)
        if self.greedy:
            self.pass_on()
        if packet.kind == "end":
            self.stream.send("finish")
        if packet.kind in ("finished", "failed"):
            self.over.set()

    def pass_on(self) -> None:
        owed, self.owed = self.owed, 0
        self.stream.passed_on(owed)

    def lost(self, error: ClusterError) -> None:
        self.kinds.append("lost")
        self.over.set()


async def volume(plane: ControlPlane, libvirtd: PrivateLibvirtd, data: bytes) -> wire.RemoteNonnullStorageVol:
    images = libvirtd.directory / "lib/images"
    images.mkdir(exist_ok=True)
    (images / "v.img").write_bytes(data)
    uri = libvirtd.uri("qemu", "/system")
    libvirtd.virsh("pool-create-as", "p", "dir", "--target", "/var/lib/libvirt/images", uri=uri)
    args = wire.RemoteStorageVolLookupByPathArgs("/var/lib/libvirt/images/v.img")
    found = await plane.call("n1", "remote:STORAGE_VOL_LOOKUP_BY_PATH", args)
    vol: wire.RemoteNonnullStorageVol = found.vol
    return vol


class Way(NamedTuple):
    """Whose file the agent is told ("": none, libvirtd does it), and whether the stream has a connection of its own."""

    file: str
    own: bool


WAYS = {
    "by libvirtd": Way("", False),
    "by the agent, on bulk": Way(FILE, False),
    "by the agent": Way(FILE, True),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """How a volume's bytes go."""
    way = WAYS[request.param]
    if not way.own:
        monkeypatch.setattr(Directs, "carried", lambda self, link, stream, message: message)
    return way


async def until_direct(plane: ControlPlane) -> None:
    """The agent has made its direct connection."""
    async with asyncio.timeout(5):
        while plane.hub._links["n1"].direct is None:
            await asyncio.sleep(0.01)


async def open_stream(plane: ControlPlane, name: str, args: Any, sink: Sink, way: Way) -> Any:
    await until_direct(plane)
    answer, stream = await plane.hub.open_stream("n1", *number(name), args.to_bytes(), sink, file=way.file)
    assert answer.ok, text_of(answer.payload)
    assert (way.file in open_files(plane)) == bool(way.file)
    assert isinstance(stream, HubStream)
    assert (stream._direct is not None) == way.own
    sink.stream = stream
    return stream


def open_files(plane: ControlPlane) -> list[str]:
    """Of the agent, which may close one meanwhile."""
    found = []
    for path in Path(f"/proc/{plane.agents[0].pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


async def test_a_slow_reader_stalls_only_its_own_stream(
    up: ControlPlane, libvirtd: PrivateLibvirtd, way: Way
) -> None:
    data = os.urandom(8 * MIB)
    vol = await volume(up, libvirtd, data)
    args = wire.RemoteStorageVolDownloadArgs(vol, 0, 0, 0)
    slow, quick = Sink(greedy=False), Sink(greedy=True)
    await open_stream(up, "remote:STORAGE_VOL_DOWNLOAD", args, slow, way)
    await up.handler.until(lambda: len(slow.data) >= m.STREAM_WINDOW)
    await open_stream(up, "remote:STORAGE_VOL_DOWNLOAD", args, quick, way)
    await asyncio.wait_for(quick.over.wait(), 15)
    assert hashlib.sha256(quick.data).digest() == hashlib.sha256(data).digest()
    assert quick.kinds[-2:] == ["end", "finished"]
    await asyncio.sleep(0.3)
    assert len(slow.data) <= m.STREAM_WINDOW + 262144
    assert (await up.call("n1", "remote:CONNECT_GET_HOSTNAME")).hostname
    slow.greedy = True
    slow.pass_on()
    await asyncio.wait_for(slow.over.wait(), 15)
    assert slow.data == data


async def test_a_sender_is_told_to_stop_when_the_node_takes_no_more(
    up: ControlPlane, libvirtd: PrivateLibvirtd, way: Way
) -> None:
    vol = await volume(up, libvirtd, bytes(6 * MIB))
    data = os.urandom(6 * MIB)
    sink = Sink(greedy=True)
    stream = await open_stream(
        up, "remote:STORAGE_VOL_UPLOAD", wire.RemoteStorageVolUploadArgs(vol, 0, 0, 0), sink, way
    )
    room = asyncio.Event()
    stream.on_room = room.set
    stops = 0
    for offset in range(0, len(data), 131072):
        room.clear()
        if not stream.send("data", data[offset : offset + 131072]):
            stops += 1
            await asyncio.wait_for(room.wait(), 10)
    stream.send("finish")
    await asyncio.wait_for(sink.over.wait(), 15)
    assert sink.kinds == ["finished"]
    assert stops > 0
    assert (libvirtd.directory / "lib/images/v.img").read_bytes() == data


async def test_a_stream_that_is_given_up_closes_its_connection_and_a_lost_agent_ends_it(
    up: ControlPlane, libvirtd: PrivateLibvirtd, way: Way
) -> None:
    vol = await volume(up, libvirtd, bytes(8 * MIB))
    args = wire.RemoteStorageVolDownloadArgs(vol, 0, 0, 0)
    given_up, aborted, broken = Sink(greedy=False), Sink(greedy=False), Sink(greedy=False)
    (await open_stream(up, "remote:STORAGE_VOL_DOWNLOAD", args, given_up, way)).close()
    stream = await open_stream(up, "remote:STORAGE_VOL_DOWNLOAD", args, aborted, way)
    await up.handler.until(lambda: len(aborted.data) >= m.STREAM_WINDOW)
    stream.send("abort")
    await asyncio.wait_for(aborted.over.wait(), 10)
    assert aborted.kinds[-1] == "finished"
    await open_stream(up, "remote:STORAGE_VOL_DOWNLOAD", args, broken, way)
    up.agents[0].stop()
    await asyncio.wait_for(broken.over.wait(), 5)
    assert broken.kinds[-1] == "lost"


async def test_an_upload_that_is_given_up_is_over_when_nothing_of_it_is_written_any_more(
    up: ControlPlane, libvirtd: PrivateLibvirtd, way: Way
) -> None:
    vol = await volume(up, libvirtd, bytes(6 * MIB))
    sink = Sink(greedy=True)
    args = wire.RemoteStorageVolUploadArgs(vol, 0, 0, 0)
    stream = await open_stream(up, "remote:STORAGE_VOL_UPLOAD", args, sink, way)
    for _ in range(4):
        stream.send("data", os.urandom(262_144))
    stream.send("abort")
    await asyncio.wait_for(sink.over.wait(), 10)
    assert sink.kinds == ["finished"]
    assert FILE not in open_files(up)


async def test_a_stream_whose_own_connection_breaks_is_lost_and_ends_at_the_agent(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    vol = await volume(up, libvirtd, bytes(6 * MIB))
    sink, args = Sink(greedy=True), wire.RemoteStorageVolUploadArgs(vol, 0, 0, 0)
    stream = await open_stream(up, "remote:STORAGE_VOL_UPLOAD", args, sink, WAYS["by the agent"])
    stream.send("data", os.urandom(262_144))
    stream._direct._secured.sock.shutdown(socket.SHUT_RDWR)
    await asyncio.wait_for(sink.over.wait(), 5)
    assert sink.kinds == ["lost"]
    async with asyncio.timeout(5):
        while FILE in open_files(up):
            await asyncio.sleep(0.05)
    assert not up.hub._links["n1"].streams
    # The node itself is there, and so is the next stream.
    sink = Sink(greedy=True)
    stream = await open_stream(up, "remote:STORAGE_VOL_UPLOAD", args, sink, WAYS["by the agent"])
    stream.send("data", b"again")
    stream.send("finish")
    await asyncio.wait_for(sink.over.wait(), 10)
    assert sink.kinds == ["finished"]
    assert (libvirtd.directory / "lib/images/v.img").read_bytes()[:5] == b"again"


async def test_a_streams_ticket_is_good_for_no_longer_than_the_stream(
    up: ControlPlane, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    vol = await volume(up, libvirtd, bytes(MIB))
    asked: list[m.OpenStream] = []
    carried = Directs.carried

    def without_a_place(
        self: Directs, link: NodeLink, stream: HubStream, message: m.OpenStream
    ) -> m.OpenStream:
        asked.append(carried(self, link, stream, message))
        return message  # as to an agent that knows of no such thing

    monkeypatch.setattr(Directs, "carried", without_a_place)
    sink, args = Sink(greedy=True), wire.RemoteStorageVolDownloadArgs(vol, 0, 0, 0)
    await until_direct(up)
    answer, sink.stream = await up.hub.open_stream(
        "n1", *number("remote:STORAGE_VOL_DOWNLOAD"), args.to_bytes(), sink, file=FILE
    )
    assert answer.ok
    await asyncio.wait_for(sink.over.wait(), 10)
    assert sink.data == bytes(MIB)
    [offer] = asked
    assert offer.ticket
    assert offer.ticket not in up.hub._directs._server._tickets


async def test_a_stream_that_libvirtd_refuses_is_an_answer_and_no_stream(up: ControlPlane) -> None:
    args = wire.RemoteDomainOpenConsoleArgs(handle(), None, 0).to_bytes()
    sink = Sink(greedy=True)
    answer, stream = await up.hub.open_stream("n1", *number("remote:DOMAIN_OPEN_CONSOLE"), args, sink)
    assert not answer.ok
    assert stream is None
    assert "no domain with matching uuid" in text_of(answer.payload)


async def operate(plane: ControlPlane, node: str, kind: str, args: Any, result: Any = None) -> Any:
    found = await plane.hub.operate(node, kind, msgspec.msgpack.encode(args), domain=UUID_BYTES)
    return msgspec.msgpack.decode(found, type=result) if result else None


async def test_nvram_moves_with_the_definition_and_a_foreign_path_is_refused(
    up: ControlPlane, libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd
) -> None:
    nvram = "/var/lib/libvirt/qemu/nvram/d1_VARS.fd"
    loader = "<loader readonly='yes' type='pflash'>/usr/share/firmware.fd</loader>"
    up.agent("n2", other_libvirtd.uri("qemu", "/system"), inside=other_libvirtd)
    await up.up("n2")
    await define(up, xml_of("d1", f"{loader}<nvram>{nvram}</nvram>"))
    here = libvirtd.directory / "lib/qemu/nvram/d1_VARS.fd"
    there = other_libvirtd.directory / "lib/qemu/nvram/d1_VARS.fd"
    here.parent.mkdir(parents=True, exist_ok=True)
    here.write_bytes(b"variables" * 1000)
    exported = await operate(up, "n1", "export", ops.ExportArgs(UUID_BYTES), ops.ExportResult)
    assert [(file.what, file.path, file.size) for file in exported.files] == [("nvram", nvram, 9000)]
    evil = msgspec.structs.replace(exported.files[0], path="/etc/libvirt/evil")
    with pytest.raises(ClusterError, match="/etc/libvirt/evil is not the nvram file"):
        await operate(up, "n2", "import", ops.ImportArgs(msgspec.structs.replace(exported, files=[evil])))
    broken = msgspec.structs.replace(exported, snapshots=["<nonsense/>"])
    with pytest.raises(ClusterError):
        await operate(up, "n2", "import", ops.ImportArgs(broken))
    assert not there.exists()
    assert other_libvirtd.virsh("list", "--all", "--name", uri=other_libvirtd.uri("qemu", "/system")) == ""
    await operate(up, "n2", "import", ops.ImportArgs(exported))
    assert there.read_bytes() == b"variables" * 1000
    await operate(up, "n1", "drop", ops.DropArgs(UUID_BYTES))
    assert not here.exists()


async def test_a_managed_save_moves_in_pieces_and_is_what_the_domain_starts_from(
    up: ControlPlane, libvirtd: PrivateLibvirtd, other_libvirtd: PrivateLibvirtd
) -> None:
    up.agent("n2", other_libvirtd.uri("qemu", "/system"), inside=other_libvirtd)
    await up.up("n2")
    await define(up, xml_of("d1"))
    await start(up)
    save = wire.RemoteDomainManagedSaveArgs(handle(), 0)
    await up.call("n1", "remote:DOMAIN_MANAGED_SAVE", save, long=True, report=UUID_BYTES)
    assert up.handler.values("report")[-1].managed_save
    exported = await operate(up, "n1", "export", ops.ExportArgs(UUID_BYTES), ops.ExportResult)
    (saved,) = exported.files
    assert (saved.what, saved.data) == ("managed-save", b"")
    await operate(up, "n2", "import", ops.ImportArgs(exported))
    for offset in range(0, saved.size, MIB):
        fetch = ops.FetchFileArgs(UUID_BYTES, "managed-save", offset, MIB)
        data = await operate(up, "n1", "fetch-file", fetch, bytes)
        last = offset + MIB >= saved.size
        await operate(
            up, "n2", "put-file", ops.PutFileArgs(UUID_BYTES, "managed-save", saved.path, offset, data, last)
        )
    await operate(up, "n1", "drop", ops.DropArgs(UUID_BYTES))
    assert [r.managed_save for kind, node, r in up.handler.told if (kind, node) == ("report", "n2")][-1]
    report = await start(up, "n2")
    assert (report.state, report.managed_save) == (RUNNING, False)
    events = [value[2] for kind, node, value in up.handler.told if (kind, node) == ("event", "n2")]
    lifecycle = [wire.RemoteDomainEventCallbackLifecycleMsg.from_bytes(event).msg for event in events]
    # STARTED, detail RESTORED.
    assert (2, 2) in [(event.event, event.detail) for event in lifecycle]


async def test_dropping_a_running_stale_copy_stops_it_and_leaves_nothing(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    await define(up, xml_of("d1"))
    await start(up)
    await operate(up, "n1", "drop", ops.DropArgs(UUID_BYTES, destroy=True))
    assert ("gone", "n1", UUID_BYTES) in up.handler.told
    assert libvirtd.virsh("list", "--all", "--name", uri=libvirtd.uri("qemu", "/system")) == ""
