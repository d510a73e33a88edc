"""An agent process before a real libvirtd (driver test:///default), a hub in this process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterhost.agent import transport
from clusterhost.agent.errors import LibvirtRefused, code_of, text_of
from clusterhost.control import operations as ops
from clusterhost.model.errors import (
    ClusterError,
    DeadlinePassed,
    NodeError,
    NodeUnreachable,
)
from clusterhost.service.ports import Answer
from compat.libvirt import messages as wire
from tests.support.control import ControlPlane, PrivateLibvirtd, number
from tests.support.testdomain import REMOTE_LIFECYCLE, UUID_BYTES, UUID_TEXT, define, forget, handle, xml_of

pytestmark = pytest.mark.real
OPERATION_DENIED, NO_DOMAIN = 29, 42


async def test_the_snapshot_tells_what_the_node_is_and_has(up: ControlPlane) -> None:
    snapshot = await up.up("n1")
    assert [(d.name, d.state, d.persistent) for d in snapshot.domains] == [("test", 1, True)]
    facts = snapshot.facts
    assert (facts.hypervisor_type, facts.cpus, facts.memory_kib) == ("TEST", 16, 3145728)
    assert facts.libvirt_version >= 9_000_000
    assert "<capabilities>" in facts.capabilities
    definition = await up.handler.until(lambda: up.handler.values("definition"))
    assert "<name>test</name>" in definition[0][1]
    beats = await up.handler.until(lambda: [b for b in up.handler.beats if b.stats.free_memory])
    assert beats[-1].virt_up


async def test_an_answer_is_the_bytes_that_libvirtd_itself_gives(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    direct = await transport.connect(transport.target(libvirtd.uri()))
    test = (await direct.ask("remote:DOMAIN_LOOKUP_BY_NAME", wire.RemoteDomainLookupByNameArgs("test"))).dom
    args = wire.RemoteDomainGetXmlDescArgs(test, 0)
    expected = await direct.ask("remote:DOMAIN_GET_XML_DESC", args)
    answer = await up.hub.call("n1", *number("remote:DOMAIN_GET_XML_DESC"), args.to_bytes())
    assert answer == Answer(ok=True, payload=expected.to_bytes())
    lookup = wire.RemoteDomainLookupByUuidArgs(bytes(16))
    with pytest.raises(LibvirtRefused) as refused:
        await direct.ask("remote:DOMAIN_LOOKUP_BY_UUID", lookup)
    answer = await up.hub.call("n1", *number("remote:DOMAIN_LOOKUP_BY_UUID"), lookup.to_bytes())
    assert answer == Answer(ok=False, payload=refused.value.payload)
    assert code_of(answer.payload) == NO_DOMAIN
    direct.close()


async def test_a_procedure_that_nobody_knows_is_answered_by_libvirtd(up: ControlPlane) -> None:
    answer = await up.hub.call("n1", *number("remote:DOMAIN_CREATE")[:1], 9999, b"")
    assert not answer.ok
    assert text_of(answer.payload) == "unknown procedure: 9999"


async def test_events_come_before_the_reply_of_the_call_that_caused_them(up: ControlPlane) -> None:
    told = up.handler.told
    for name, kinds in (
        ("define", [0]),
        ("create", [2]),
        ("suspend", [3]),
        ("resume", [4]),
        ("destroy", [5]),
    ):
        start = len(told)
        if name == "define":
            await define(up)
        else:
            args = {
                "create": wire.RemoteDomainCreateArgs,
                "suspend": wire.RemoteDomainSuspendArgs,
                "resume": wire.RemoteDomainResumeArgs,
                "destroy": wire.RemoteDomainDestroyArgs,
            }[name](handle())
            await up.call("n1", f"remote:DOMAIN_{name.upper()}", args, report=UUID_BYTES)
        since = told[start:]
        events = [value for what, _, value in since if what == "event" and value[:2] == REMOTE_LIFECYCLE]
        found = [
            wire.RemoteDomainEventCallbackLifecycleMsg.from_bytes(event[2]).msg.event for event in events
        ]
        assert found == kinds, name
        last = [value for what, _, value in since if what == "report"][-1]
        assert last.state == {"define": 5, "create": 1, "suspend": 3, "resume": 1, "destroy": 5}[name]
    await forget(up)
    assert ("gone", "n1", UUID_BYTES) in told


async def test_what_happens_behind_our_back_is_told_within_a_second(
    up: ControlPlane, libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    (tmp_path / "d.xml").write_text(xml_of("behind"))
    start = time.monotonic()
    libvirtd.virsh("define", str(tmp_path / "d.xml"))
    reports = await up.handler.until(lambda: [r for r in up.handler.values("report") if r.name == "behind"])
    assert time.monotonic() - start < 1.0
    assert reports[-1].state == 5
    await up.handler.until(lambda: [d for d in up.handler.values("definition") if d[0] == UUID_BYTES])
    libvirtd.virsh("undefine", "behind")
    await up.handler.until(lambda: UUID_BYTES in up.handler.values("gone"))


async def test_two_hundred_calls_at_once_are_all_answered(up: ControlPlane) -> None:
    calls = [up.call("n1", "remote:CONNECT_GET_HOSTNAME") for _ in range(200)]
    names = {found.hostname for found in await asyncio.gather(*calls)}
    assert len(names) == 1


async def test_more_calls_than_may_wait_are_refused_as_busy_and_the_rest_answered(up: ControlPlane) -> None:
    calls = [up.hub.call("n1", *number("remote:CONNECT_GET_HOSTNAME"), b"") for _ in range(900)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    kinds = {type(result).__name__ for result in results}
    assert kinds <= {"Answer", "NodeBusy"}
    assert sum(isinstance(result, Answer) for result in results) >= 512


async def test_a_read_only_call_is_refused_by_libvirtd_itself(up: ControlPlane) -> None:
    args = wire.RemoteDomainDefineXmlFlagsArgs(xml_of("ro"), 0).to_bytes()
    answer = await up.hub.call("n1", *number("remote:DOMAIN_DEFINE_XML_FLAGS"), args, readonly=True)
    assert (answer.ok, code_of(answer.payload)) == (False, OPERATION_DENIED)
    answer = await up.hub.call("n1", *number("remote:CONNECT_GET_HOSTNAME"), b"", readonly=True)
    assert answer.ok


async def test_a_stale_domain_is_destroyed_before_the_snapshot(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    await define(up, op="s-1", domain=UUID_BYTES, generation=1)
    await up.call("n1", "remote:DOMAIN_CREATE", wire.RemoteDomainCreateArgs(handle()), report=UUID_BYTES)
    up.handler.stale = {UUID_TEXT: 2}
    up.handler.told.clear()
    up.hub.disconnect("n1")
    snapshot = await up.up("n1")
    assert {d.name: d.state for d in snapshot.domains}["d1"] == 5
    up.handler.stale = {}
    await forget(up)


async def test_a_front_end_of_an_older_epoch_is_not_obeyed(
    plane: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    plane.handler.epoch = 5
    plane.agent("n1", libvirtd.uri())
    await plane.up("n1")
    plane.handler.told.clear()
    plane.handler.epoch = 4
    plane.hub.disconnect("n1")
    await asyncio.sleep(1.5)
    assert plane.handler.values("snapshot") == []
    plane.handler.epoch = 6
    await plane.up("n1")


async def test_a_stopped_agent_is_noticed_within_five_seconds_and_comes_back(up: ControlPlane) -> None:
    call = asyncio.ensure_future(up.call("n1", "remote:CONNECT_GET_HOSTNAME"))
    await call
    up.agents[0].signal(signal.SIGSTOP)
    start = time.monotonic()
    await up.handler.until(lambda: up.handler.values("lost"))
    assert time.monotonic() - start < 5.0
    with pytest.raises(NodeUnreachable):
        await up.call("n1", "remote:CONNECT_GET_HOSTNAME")
    up.handler.told.clear()
    up.agents[0].signal(signal.SIGCONT)
    await up.up("n1")
    assert (await up.call("n1", "remote:CONNECT_GET_HOSTNAME")).hostname


async def test_a_killed_agent_is_noticed_at_once(up: ControlPlane) -> None:
    up.agents[0].signal(signal.SIGKILL)
    start = time.monotonic()
    await up.handler.until(lambda: up.handler.values("lost"))
    assert time.monotonic() - start < 1.0


async def test_a_hung_libvirtd_slows_no_other_node_and_is_told_apart(
    up: ControlPlane, own_libvirtd: PrivateLibvirtd
) -> None:
    up.agent("n2", own_libvirtd.uri())
    await up.up("n2")
    own_libvirtd.signal(signal.SIGSTOP)
    start = time.monotonic()
    stuck = asyncio.ensure_future(up.call("n2", "remote:CONNECT_GET_HOSTNAME", deadline=2.0))
    for _ in range(50):
        await up.call("n1", "remote:CONNECT_GET_HOSTNAME")
    assert time.monotonic() - start < 1.0
    with pytest.raises(DeadlinePassed):
        await stuck
    await up.handler.until(lambda: not up.handler.beats[-1].virt_up or not up.handler.beats[-2].virt_up)
    assert time.monotonic() - start < 6.0
    with pytest.raises(NodeUnreachable, match="libvirtd does not answer"):
        await up.call("n2", "remote:CONNECT_GET_HOSTNAME")
    assert up.handler.values("lost") == []
    own_libvirtd.signal(signal.SIGCONT)
    await up.handler.until(lambda: up.handler.beats[-1].virt_up and up.handler.beats[-2].virt_up)
    assert (await up.call("n2", "remote:CONNECT_GET_HOSTNAME")).hostname


async def test_a_call_that_nobody_waits_for_is_dropped_unless_it_is_at_libvirtd(
    plane: ControlPlane, own_libvirtd: PrivateLibvirtd
) -> None:
    plane.agent("n1", own_libvirtd.uri())
    await plane.up("n1")
    # As many connections as there may be, each with as many calls as it takes.
    await asyncio.gather(*(plane.call("n1", "remote:CONNECT_GET_HOSTNAME") for _ in range(200)))
    own_libvirtd.signal(signal.SIGSTOP)
    loop, define = asyncio.get_running_loop(), number("remote:DOMAIN_DEFINE_XML_FLAGS")
    outcomes: list[asyncio.Future[Any]] = []
    dones: set[Any] = set()

    def submit(name: str, uuid: str) -> None:
        future = loop.create_future()
        outcomes.append(future)
        dones.add(future.set_result)
        args = wire.RemoteDomainDefineXmlFlagsArgs(xml_of(name, uuid), 0).to_bytes()
        plane.hub.submit("n1", *define, args, future.set_result)

    submit("at-libvirtd", UUID_TEXT)
    busy = [asyncio.ensure_future(plane.call("n1", "remote:CONNECT_GET_HOSTNAME")) for _ in range(30)]
    await asyncio.sleep(0.2)
    submit("waits", UUID_TEXT.replace("1", "2"))
    await asyncio.sleep(0.2)
    plane.hub.abandon(lambda done: done in dones)
    dropped = await asyncio.wait_for(outcomes[1], 2)
    assert isinstance(dropped, DeadlinePassed)
    assert "nobody waits" in str(dropped)
    assert not outcomes[0].done()
    own_libvirtd.signal(signal.SIGCONT)
    assert (await asyncio.wait_for(outcomes[0], 10)).ok
    await asyncio.gather(*busy)
    names = own_libvirtd.virsh("list", "--all", "--name").split()
    assert "at-libvirtd" in names
    assert "waits" not in names
    own_libvirtd.virsh("undefine", "at-libvirtd")


async def test_a_call_with_an_operation_id_waits_for_a_libvirtd_that_restarts(
    plane: ControlPlane, own_libvirtd: PrivateLibvirtd
) -> None:
    plane.agent("n1", own_libvirtd.uri())
    await plane.up("n1")
    plane.handler.told.clear()
    own_libvirtd.stop_libvirtd()
    await plane.handler.until(lambda: plane.handler.beats and not plane.handler.beats[-1].virt_up)
    with pytest.raises(NodeUnreachable):
        await plane.call("n1", "remote:CONNECT_GET_HOSTNAME")
    waiting = asyncio.ensure_future(define(plane, op="w-1", domain=UUID_BYTES, generation=1))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    own_libvirtd.start()
    assert (await waiting).dom.name == "d1"
    await plane.up("n1")
    assert plane.handler.values("gone") == []
    assert plane.handler.values("lost") == []


async def test_a_session_has_a_connection_of_its_own_until_it_closes(
    up: ControlPlane, libvirtd: PrivateLibvirtd
) -> None:
    for session in (5, 6):
        await up.call("n1", "remote:CONNECT_GET_HOSTNAME", session=session)
    before = clients(libvirtd)
    up.hub.close_session(5)
    await up.handler.until(lambda: clients(libvirtd) == before - 1)
    up.hub.close_session(6)
    await up.handler.until(lambda: clients(libvirtd) == before - 2)


def clients(libvirtd: PrivateLibvirtd) -> int:
    """Connections to the read-write socket, as the kernel counts them."""
    socket = "/run/libvirt/libvirt-sock"
    found = subprocess.run(["ss", "-xH", "state", "established"], capture_output=True, text=True, check=True)
    pid = libvirtd.pid
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    numbers = {name.removeprefix("socket:[").rstrip("]") for name in inodes if name.startswith("socket:[")}
    return sum(
        socket in line and any(part in numbers for part in line.split()) for line in found.stdout.splitlines()
    )


async def test_a_token_starts_an_agent_once(plane: ControlPlane, libvirtd: PrivateLibvirtd) -> None:
    token = plane.token("n1")
    plane.agent("n1", libvirtd.uri(), token=token)
    await plane.up("n1")
    assert len(plane.handler.values("register")) == 1
    second = plane.agent("n1", libvirtd.uri(), token=token, name="second")
    await plane.handler.until(lambda: "already used or withdrawn" in second.log.read_text())
    assert len(plane.handler.values("hello")) == 1


async def test_a_libvirt_error_inside_an_operation_is_passed_on(up: ControlPlane) -> None:
    with pytest.raises(NodeError) as refused:
        await up.hub.operate("n1", "export", msgspec.msgpack.encode(ops.ExportArgs(bytes(16))))
    assert code_of(refused.value.payload) == NO_DOMAIN
    with pytest.raises(ClusterError, match="operation dance is not one of export"):
        await up.hub.operate("n1", "dance", b"")


async def test_a_definition_moves_with_its_snapshots_and_a_failed_import_leaves_nothing(
    up: ControlPlane, own_libvirtd: PrivateLibvirtd
) -> None:
    up.agent("n2", own_libvirtd.uri())
    await up.up("n2")
    await define(up)
    for name in ("one", "two"):
        snap = wire.RemoteDomainSnapshotCreateXmlArgs(
            handle(), f"<domainsnapshot><name>{name}</name></domainsnapshot>", 0
        )
        await up.call("n1", "remote:DOMAIN_SNAPSHOT_CREATE_XML", snap)
    args = msgspec.msgpack.encode(ops.ExportArgs(UUID_BYTES))
    exported = msgspec.msgpack.decode(await up.hub.operate("n1", "export", args), type=ops.ExportResult)
    assert (len(exported.snapshots), exported.current_snapshot) == (2, "two")
    broken = msgspec.structs.replace(exported, snapshots=[*exported.snapshots, "<nonsense/>"])
    with pytest.raises(NodeError):
        await up.hub.operate("n2", "import", msgspec.msgpack.encode(ops.ImportArgs(broken)))
    assert own_libvirtd.virsh("list", "--all", "--name").split() == ["test"]
    await up.hub.operate("n2", "import", msgspec.msgpack.encode(ops.ImportArgs(exported)), domain=UUID_BYTES)
    assert own_libvirtd.virsh("snapshot-list", "d1", "--name").split() == ["one", "two"]
    assert own_libvirtd.virsh("snapshot-current", "d1", "--name") == "two"
    drop = msgspec.msgpack.encode(ops.DropArgs(UUID_BYTES))
    for node in ("n1", "n2", "n2"):
        await up.hub.operate(node, "drop", drop, domain=UUID_BYTES)
    assert own_libvirtd.virsh("list", "--all", "--name").split() == ["test"]


async def test_a_peer_socket_leads_to_the_libvirtd_of_the_other_node(
    plane: ControlPlane, libvirtd: PrivateLibvirtd, own_libvirtd: PrivateLibvirtd, tmp_path: Path
) -> None:
    plane.agent("n1", libvirtd.uri(), inside=libvirtd)
    plane.agent("n2", own_libvirtd.uri())
    await plane.up("n1")
    await plane.up("n2")
    (tmp_path / "d.xml").write_text(xml_of("there"))
    own_libvirtd.virsh("define", str(tmp_path / "d.xml"))
    found = await plane.hub.operate("n1", "peer-socket", msgspec.msgpack.encode(ops.PeerSocketArgs("n2")))
    path = msgspec.msgpack.decode(found, type=str)

    async def virsh(*args: str) -> str:
        command = ("virsh", "-q", "-c", f"test+unix:///default?socket={path}", *args)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        return output.decode()

    outputs = await asyncio.gather(*(virsh("list", "--all", "--name") for _ in range(3)))
    logs = [agent.log.read_text() for agent in plane.agents]
    assert all("there" in output for output in outputs), (outputs, logs)
    assert await virsh("dumpxml", "there") == own_libvirtd.virsh("dumpxml", "there") + "\n"
    plane.agents[1].signal(signal.SIGKILL)
    await plane.handler.until(lambda: plane.handler.values("lost"))
    assert "error: " in await virsh("list", "--name")


async def test_the_agent_is_small(up: ControlPlane) -> None:
    pid = up.agents[0].pid
    resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line)
    assert int(resident.split()[1]) < 60 * 1024


def test_ssh_commands_follow_the_parameters_of_the_uri() -> None:
    target = transport.target("qemu+ssh://me@far:2222/system?keyfile=/k&no_verify=1&netcat=/bin/nc")
    command = transport.ssh_command(target)
    assert command[:6] == ["ssh", "-T", "-e", "none", "-o", "BatchMode=yes"]
    assert command[6:8] == ["-p", "2222"]
    assert command[8:10] == ["-l", "me"]
    assert "far" in command
    assert "virt-ssh-helper" in command[-1]
    assert "qemu:///system" in command[-1]
