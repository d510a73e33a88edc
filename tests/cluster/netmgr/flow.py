"""How much gets through a TCP connection: `python -m tests.cluster.netmgr.flow serve PORT`, and on the other side
`... get|put HOST PORT SECONDS`, which prints bytes a second as the receiver had them.  The beginning does not count."""

from __future__ import annotations

import socket
import sys
import time

WARM_SECONDS = 2.0
_CHUNK = bytes(16384)


def _receive(connection: socket.socket, seconds: float) -> float:
    """Bytes a second, after the first moments, when a burst may pass."""
    begin = time.monotonic() + WARM_SECONDS
    count, end = 0, begin + seconds
    while (now := time.monotonic()) < end and (data := connection.recv(65536)):
        count += len(data) if now > begin else 0
    return count / seconds


def _send(connection: socket.socket) -> None:
    try:
        while True:
            connection.sendall(_CHUNK)
    except OSError:
        return  # the receiver has seen enough


def _drain(connection: socket.socket) -> None:
    """Until the sender has read the answer and gone: what is unread would reset the connection."""
    try:
        while connection.recv(65536):
            continue
    except OSError:
        return


def serve(port: int) -> None:
    """One connection after the other, for ever."""
    with socket.create_server(("", port)) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                way, seconds = connection.recv(64).decode().split()
                if way == "get":
                    _send(connection)
                else:
                    rate = _receive(connection, float(seconds))
                    connection.sendall(f"{rate}".encode())
                    _drain(connection)


def measure(way: str, host: str, port: int, seconds: float) -> float:
    """Bytes a second to here (get), or from here (put)."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(f"{way} {seconds}".encode())
        if way == "get":
            return _receive(connection, seconds)
        time.sleep(0.1)  # so that the request is read alone
        connection.setblocking(False)
        said = b""
        while not said:
            try:
                connection.send(_CHUNK)
            except BlockingIOError:
                time.sleep(0.005)
            try:
                said = connection.recv(64)
            except BlockingIOError:
                continue
        return float(said)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        print(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
