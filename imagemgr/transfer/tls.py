"""Connections between nodes: TLS 1.3, a certificate made at start and pinned by its fingerprint.  Knows no messages."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import cast

from imagemgr.transfer.errors import SourceGone, TransferRefused

HANDSHAKE_SECONDS = 10.0
SILENCE_SECONDS = 20.0
"""How long a connection may bring nothing of what was asked for."""
_COMMAND = ("openssl", "req", "-x509", "-batch", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
_OPTIONS = ("-nodes", "-subj", "/CN=clusterhost", "-days", "3650", "-keyout", "-", "-out", "-")
_BUFFER = 1024 * 1024
_READ = 256 * 1024


class Identity:
    """A key and a certificate that it signed itself.  fingerprint: SHA-256 of it.  TransferRefused."""

    def __init__(self) -> None:
        pem = _new_certificate()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Nobody resumes a session.
        self.context.num_tickets = 0
        with tempfile.TemporaryDirectory(prefix="clusterhost-") as directory:
            path = Path(directory, "images.pem")
            path.touch(mode=0o600)
            path.write_bytes(pem)
            self.context.load_cert_chain(path)
        text = pem.decode("ascii")
        text = text[text.index("-----BEGIN CERTIFICATE") :].strip()
        self.fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).digest()

    def greet(self, plain: socket.socket) -> Stream:
        """The serving end's handshake; OSError (ssl.SSLError, TimeoutError)."""
        _tune(plain)
        return Stream(plain, self.context, server=True)


class Stream:
    """A TLS connection for one thread.  OSError where it breaks.

    Records are made and read in memory, many for one system call: a socket of ssl's makes two calls for each."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        self._plain = plain
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server)
        self._buffer = memoryview(bytearray(_READ))
        plain.settimeout(HANDSHAKE_SECONDS)
        self._greet()

    def settimeout(self, seconds: float) -> None:
        """How long to wait for anything to come or leave."""
        self._plain.settimeout(seconds)

    def fingerprint(self) -> bytes:
        """Of the other end's certificate."""
        return hashlib.sha256(self._tls.getpeercert(binary_form=True) or b"").digest()

    def send(self, data: bytes | memoryview) -> None:
        """All of it."""
        self._tls.write(data)
        self._plain.sendall(self._out.read())

    def fill(self, view: memoryview) -> int:
        """Read until the view is full; fewer bytes only when the other end has closed."""
        done, size = 0, len(view)
        while done < size:
            try:
                # Given a buffer it says how many bytes it has put there.
                done += cast("int", self._tls.read(size - done, view[done:]))
            except ssl.SSLWantReadError:
                if not self._more():
                    break
        return done

    def shutdown(self) -> None:
        """From another thread: whoever waits on it, gets an error or the end."""
        with contextlib.suppress(OSError):
            self._plain.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._plain.close()

    def _greet(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._plain.sendall(self._out.read())
                if not self._more():
                    raise ConnectionResetError(errno.ECONNRESET, "it closed the connection") from None
            else:
                self._plain.sendall(self._out.read())
                return

    def _more(self) -> bool:
        count = self._plain.recv_into(self._buffer)
        self._in.write(self._buffer[:count])
        return count > 0


def connect(address: str, port: int, fingerprint: bytes) -> Stream:
    """Dial a node and see that it is the one that was meant; SourceGone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The fingerprint came by the control connection: it says who that is, no authority has to.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        plain = socket.create_connection((address, port), HANDSHAKE_SECONDS)
    except OSError as error:
        raise SourceGone(why(error)) from error
    with contextlib.ExitStack() as undo:
        undo.callback(plain.close)
        try:
            _tune(plain)
            stream = Stream(plain, context, server=False)
        except OSError as error:
            raise SourceGone(why(error)) from error
        if stream.fingerprint() != fingerprint:
            raise SourceGone("its certificate is another one than it offered")
        undo.pop_all()
    stream.settimeout(SILENCE_SECONDS)
    return stream


def listen(address: str, port: int = 0) -> socket.socket:
    """A listener; port 0: any that is free.  TransferRefused."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=128)
    except OSError as error:
        where = f"address {address}" + (f", port {port}" if port else "")
        raise TransferRefused(
            f"images cannot be given at {where}: {os.strerror(error.errno or 0).lower()}"
        ) from error


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)


def why(error: OSError) -> str:
    """What is wrong with a connection."""
    if isinstance(error, TimeoutError):
        return "it says nothing"
    return (error.strerror or str(error)).lower()


def _new_certificate() -> bytes:
    try:
        done = subprocess.run((*_COMMAND, *_OPTIONS), capture_output=True, check=False)
    except OSError as error:
        raise TransferRefused(f"openssl cannot be run: {error.strerror}") from error
    if done.returncode:
        raise TransferRefused(f"openssl made no certificate: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
