"""Connections ready for a test: a server with open streams, a client with calls under way."""

from __future__ import annotations

import struct
from typing import Any

from compat.libvirt.connection import Connection, Role
from compat.libvirt.constants import REMOTE_PROGRAM
from compat.libvirt.events import StreamKey
from compat.libvirt.refusals import rpc_error
from compat.libvirt.schema import BY_NAME
from compat.libvirt.streams import Direction

KEY = StreamKey(REMOTE_PROGRAM, BY_NAME["remote:DOMAIN_OPEN_CONSOLE"].number, 5)
SPARSE = StreamKey(REMOTE_PROGRAM, BY_NAME["remote:STORAGE_VOL_UPLOAD"].number, 6)
AUTH_LIST = BY_NAME["remote:AUTH_LIST"].number
OPEN = BY_NAME["remote:CONNECT_OPEN"].number
GET_STATE = BY_NAME["remote:DOMAIN_GET_STATE"].number
FOUND = rpc_error("something")
hole = struct.pack(">qI", 4096, 0)


def server(**options: Any) -> Connection:
    """A server that has authenticated its client and has two streams open."""
    connection = Connection(Role.SERVER, **options)
    connection.authenticated = True
    connection.open_stream(KEY)
    connection.open_stream(SPARSE, Direction.TO_SERVER, sparse=True)
    return connection


def client(**options: Any) -> Connection:
    """A client with ten calls under way (serials 0 to 9), streams at two of them, one finish asked for."""
    connection = Connection(Role.CLIENT, **options)
    for serial in range(10):
        connection.call(REMOTE_PROGRAM, {5: KEY, 6: SPARSE}[serial].procedure if serial in (5, 6) else OPEN)
    connection.open_stream(KEY)
    connection.open_stream(SPARSE, Direction.BOTH, sparse=True)
    connection.stream_finish(KEY)
    return connection
