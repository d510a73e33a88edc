"""A large packet while it comes: gathered apart, uncopied where the socket gives its bytes right there.  No rules.

Behind a large packet of a stream there is mostly another one of its length.  So room is made for
that, and when its header has come it is known whether it is one.
"""

from __future__ import annotations

from compat.libvirt.frames import HEADER, HEADER_SIZE

LARGE, LARGEST = 64 * 1024, 1024 * 1024
"""Bytes that a packet lacks from which on it is gathered here, and those of the largest: room is made for it at once,
for whoever says in 28 bytes that so many will follow."""
_NOTHING = memoryview(b"")


class Large:
    """header: of the one that has begun, empty while none has; missing: bytes that it lacks."""

    def __init__(self) -> None:
        self.missing = 0
        self.header: tuple[int, ...] = ()
        self._packet = _NOTHING
        self._expected = 0

    def begins(self, header: tuple[int, ...], there: bytearray) -> bool:
        """Take what is there of a packet, from its header on; False, and nothing is taken, when it is none of ours."""
        missing = header[0] - len(there)
        if missing < LARGE or header[0] > LARGEST:
            return False
        self.header, self.missing = header, missing
        self._packet = memoryview(bytearray(header[0]))
        self._packet[: len(there)] = there
        return True

    def room(self) -> memoryview | None:
        """Where the next bytes belong, which then have to go there; None: nowhere yet."""
        if self.missing:
            return self._packet[-self.missing :]
        if self._expected:
            if not self._packet:
                self._packet = memoryview(bytearray(self._expected))
            return self._packet
        return None

    def guessed(self, placed: int, kind: int) -> bytes:
        """So many bytes are in the room of a packet that had not begun.  Return them if they are not of one that has
        begun now: no packet of this kind is ours."""
        length, self._expected = self._expected, 0
        if placed >= HEADER_SIZE:
            header = HEADER.unpack_from(self._packet)
            if header[0] == length and header[4] != kind:
                self.header, self.missing = header, length
                return b""
        packet, self._packet = self._packet, _NOTHING
        return bytes(packet[:placed])

    def take(self, data: memoryview, placed: int) -> memoryview:
        """`placed` bytes are in the room, then these come; return those that are not of this packet."""
        self.missing -= placed
        mine = data[: self.missing]
        if mine:
            start = len(self._packet) - self.missing
            self._packet[start : start + len(mine)] = mine
            self.missing -= len(mine)
        return data[len(mine) :]

    def whole(self, *, again: bool) -> memoryview:
        """The payload, which is the caller's from now on; again: expect another one next."""
        packet, self._packet = self._packet, _NOTHING
        self.header = ()
        self._expected = len(packet) if again else 0
        return packet[HEADER_SIZE:]
