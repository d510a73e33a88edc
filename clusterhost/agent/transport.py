"""Reach a libvirtd by its URI: unix socket, ssh, TLS or TCP.  Gives a connected socket; knows no packets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clusterhost.agent.errors import Unavailable
from clusterhost.agent.rpc import Rpc
from compat.libvirt import uri as uris
from compat.libvirt.messages import RemoteConnectOpenArgs, RemoteConnectSupportsFeatureArgs

DIAL_SECONDS = 15.0
READ_ONLY = 1
_WORDS_SECONDS = 1.0
_KEEPALIVE_FEATURE = 10
_POLKIT = 2
_TCP_PORT, _TLS_PORT = 16509, 16514
_SOCKET = "/var/run/libvirt/libvirt-sock"
_PKI = Path("/etc/pki")


@dataclass(frozen=True, slots=True)
class Target:
    """A libvirtd.  `name` is what CONNECT_OPEN is given (the URI without transport, host and parameters)."""

    name: str
    transport: str
    host: str
    port: int
    user: str
    query: Mapping[str, str]

    @property
    def local(self) -> bool:
        """On this machine, by a unix socket."""
        return self.transport == "unix"


def target(text: str) -> Target:
    """Parse a URI; raises Unavailable for a transport that is not known."""
    found = uris.parse_uri(text)
    transport = found.transport or ("tls" if found.host else "unix")
    if transport not in _DIAL:
        raise Unavailable("refused", f"transport {transport} of {text} is not one of {', '.join(_DIAL)}")
    return Target(uris.remote_name(found), transport, found.host, found.port, found.user, dict(found.query))


async def dial(to: Target) -> socket.socket:
    """A connected non-blocking socket that carries the RPC; raises Unavailable."""
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            return await _DIAL[to.transport](to)
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(
            "libvirtd-down", f"libvirtd cannot be reached: {error.strerror or error}"
        ) from error
    except TimeoutError as error:
        raise Unavailable("libvirtd-down", f"libvirtd did not answer within {DIAL_SECONDS:g} s") from error


R = TypeVar("R", bound=Rpc)


async def connect(to: Target, *, readonly: bool = False, keepalive: bool = True) -> Rpc:
    """A connection that is authenticated and open; raises Unavailable, LibvirtRefused."""
    return await connect_as(Rpc, to, readonly=readonly, keepalive=keepalive)


async def connect_as(
    kind: Callable[[asyncio.AbstractEventLoop, socket.socket], R],
    to: Target,
    *,
    readonly: bool = False,
    keepalive: bool = True,
) -> R:
    """As `connect`, with an Rpc of that kind."""
    sock = await dial(to)
    rpc = kind(asyncio.get_running_loop(), sock)
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            await _open(rpc, to, readonly=readonly, keepalive=keepalive)
    except TimeoutError as error:
        rpc.close("libvirtd did not answer")
        raise Unavailable("libvirtd-down", f"libvirtd did not answer within {DIAL_SECONDS:g} s") from error
    except Unavailable as error:
        rpc.close("the connection could not be opened")
        if said := await _last_words(sock):
            raise Unavailable(error.kind, f"ssh to {to.host} ended: {said}") from error
        raise
    except BaseException:
        rpc.close("the connection could not be opened")
        raise
    return rpc


async def _open(rpc: Rpc, to: Target, *, readonly: bool, keepalive: bool) -> None:
    methods = (await rpc.ask("remote:AUTH_LIST")).types
    if methods and methods[0] == _POLKIT:
        await rpc.ask("remote:AUTH_POLKIT")
    elif methods and methods[0]:
        raise Unavailable("refused", "libvirtd asks for a password (SASL), which an agent has not")
    if keepalive:
        await rpc.ask("remote:CONNECT_SUPPORTS_FEATURE", RemoteConnectSupportsFeatureArgs(_KEEPALIVE_FEATURE))
    await rpc.ask("remote:CONNECT_OPEN", RemoteConnectOpenArgs(to.name, READ_ONLY if readonly else 0))


async def _unix(to: Target) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        # A stopped libvirtd does not accept: the kernel's queue takes us, or says EAGAIN when it is full.
        sock.connect(to.query.get("socket") or _SOCKET)
    except BaseException:
        sock.close()
        raise
    return sock


async def _tcp(to: Target) -> socket.socket:
    loop = asyncio.get_running_loop()
    host, port = to.host, to.port or _TCP_PORT
    family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


class _SshSocket(socket.socket):
    """Our end of a pair; `words` gives what ssh said last, when it has ended."""

    words: asyncio.Task[str] | None = None


async def _ssh(to: Target) -> socket.socket:
    pair, theirs = socket.socketpair()
    ours = _SshSocket(fileno=pair.detach())
    ours.setblocking(False)
    try:
        process = await asyncio.create_subprocess_exec(
            *ssh_command(to), stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=asyncio.subprocess.PIPE
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    # It ends when our end is closed; somebody has to collect it.
    ours.words = asyncio.create_task(_reap(process))
    _keep(ours.words)
    return ours


async def _reap(process: asyncio.subprocess.Process) -> str:
    """Its last words; what it says is read on and on, or it would wait for us."""
    said = ""
    try:
        while line := await _line(process.stderr):
            said = line.decode(errors="replace").strip() or said
        await process.wait()
        return said
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def _line(stream: asyncio.StreamReader | None) -> bytes:
    try:
        return await stream.readline() if stream is not None else b""
    except ValueError:
        return b"(a line too long to keep)\n"


async def _last_words(sock: socket.socket) -> str:
    """Why ssh ended, as it said itself; "" when it did not end or is not there."""
    words = getattr(sock, "words", None)
    if words is None:
        return ""
    done, _ = await asyncio.wait([words], timeout=_WORDS_SECONDS)
    return str(words.result()) if done and not words.cancelled() else ""


def ssh_command(to: Target) -> list[str]:
    """The command that joins stdin and stdout to the far libvirtd, with the URI parameters of libvirt."""
    query = to.query
    command = [query.get("command", "ssh"), "-T", "-e", "none", "-o", "BatchMode=yes"]
    command += ["-p", str(to.port)] if to.port else []
    command += ["-l", to.user] if to.user else []
    command += ["-i", query["keyfile"]] if "keyfile" in query else []
    command += ["-o", f"UserKnownHostsFile={query['known_hosts']}"] if "known_hosts" in query else []
    if query.get("no_verify") == "1" or query.get("known_hosts_verify") == "ignore":
        command += ["-o", "StrictHostKeyChecking=no"]
    path = shlex.quote(query.get("socket") or _SOCKET)
    netcat = shlex.quote(query.get("netcat", "nc"))
    helper = f"exec virt-ssh-helper {shlex.quote(to.name)}"
    if "socket" in query:
        # The helper chooses the socket by itself.
        helper = f"exec {netcat} -U {path}"
    script = (
        f"if command -v virt-ssh-helper >/dev/null 2>&1; then {helper}; "
        f"elif command -v {netcat} >/dev/null 2>&1; then exec {netcat} -U {path}; "
        f"else exec socat - UNIX-CONNECT:{path}; fi"
    )
    return [*command, "--", to.host, f"sh -c {shlex.quote(script)}"]


async def _tls(to: Target) -> socket.socket:
    reader, writer = await asyncio.open_connection(
        to.host, to.port or _TLS_PORT, ssl=tls_context(to.query), server_hostname=to.host
    )
    # libvirt's own sign, inside TLS, that the certificate was accepted.
    if await reader.readexactly(1) != b"\1":
        writer.close()
        raise ConnectionRefusedError(0, "libvirtd did not accept the certificate")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    near_reader, near_writer = await asyncio.open_connection(sock=theirs)
    _keep(asyncio.create_task(_pump(reader, near_writer)))
    _keep(asyncio.create_task(_pump(near_reader, writer)))
    return ours


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(262144):
            writer.write(data)
            await writer.drain()
    writer.close()


def tls_context(query: Mapping[str, str]) -> ssl.SSLContext:
    """The TLS settings of a libvirt client; `pkipath` and `no_verify` as in libvirt's URIs."""
    base = Path(query["pkipath"]) if "pkipath" in query else None
    authority = base / "cacert.pem" if base else _PKI / "CA/cacert.pem"
    certificate = base / "clientcert.pem" if base else _PKI / "libvirt/clientcert.pem"
    key = base / "clientkey.pem" if base else _PKI / "libvirt/private/clientkey.pem"
    context = ssl.create_default_context(cafile=os.fspath(authority))
    context.load_cert_chain(certificate, key)
    if query.get("no_verify") == "1":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


_tasks: set[asyncio.Task[Any]] = set()


def _keep(task: asyncio.Task[Any]) -> None:
    """The loop itself holds tasks only weakly."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


_DIAL = {"unix": _unix, "tcp": _tcp, "ssh": _ssh, "libssh": _ssh, "libssh2": _ssh, "tls": _tls}
