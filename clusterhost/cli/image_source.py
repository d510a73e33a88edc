"""Where an imported image comes from: a file, or a URL that is taken up where it broke off.  Knows no endpoint."""

from __future__ import annotations

import os
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Protocol

from clusterhost.cli.errors import FAILED, NOT_FOUND, TRY_AGAIN, USAGE, Failure

BLOCK = 128 * 1024
"""Bytes that are read at once; a packet of libvirt's streams holds them."""
HEAD = 1024 * 1024
"""Bytes of a URL that are kept to look at."""
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each attempt of taking up a URL; they begin anew when bytes have come."""
SECONDS = 60.0
"""Without a byte, a server is given up."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Source(Protocol):
    """An image that can be read once from its beginning, and looked at here and there."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def at(self, offset: int, length: int) -> bytes:
        """Bytes from the middle; fewer at its end, none where they cannot be had."""

    def blocks(self) -> Iterator[bytes | int]:
        """All of it in order: bytes (at most BLOCK), or the length of a hole.  Failure."""

    def close(self) -> None:
        """It is needed no more."""


def opened(given: str, *, holes: bool, pauses: Sequence[float] = PAUSES) -> Source:
    """A path or a URL (http, https, file).  holes: those of a file need not be read.  Failure."""
    parts = urllib.parse.urlsplit(given)
    if parts.scheme in ("http", "https") and parts.netloc:
        return Url(given, pauses)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise Failure(f"{given} is on another machine", USAGE)
        given = urllib.parse.unquote(parts.path)
    elif "://" in given:
        raise Failure(f"{given}: scheme '{parts.scheme}' is not one of http, https, file", USAGE)
    return File(given, holes=holes)


class File:
    """A file or block device of this machine."""

    def __init__(self, path: str, *, holes: bool) -> None:
        self._path = path
        self._holes = holes
        try:
            # A pipe would wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Failure(f"{path} cannot be read: {error.strerror}", NOT_FOUND) from error
        mode = os.fstat(self._fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            os.close(self._fd)
            raise Failure(f"{path} is neither a file nor a block device", USAGE)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        self.name = os.path.basename(path)

    def at(self, offset: int, length: int) -> bytes:
        """See Source."""
        return os.pread(self._fd, length, offset)

    def blocks(self) -> Iterator[bytes | int]:
        """See Source."""
        offset = 0
        while offset < self.size:
            data = self._data_after(offset) if self._holes else offset
            if data > offset:
                yield data - offset
                offset = data
                continue
            try:
                block = os.pread(self._fd, min(BLOCK, self.size - offset), offset)
            except OSError as error:
                raise Failure(f"{self._path} cannot be read at byte {offset}: {error.strerror}") from error
            if not block:
                raise Failure(f"{self._path} became shorter while it was read")
            yield block
            offset += len(block)

    def _data_after(self, offset: int) -> int:
        try:
            # Whole blocks, so that the next ones are aligned.
            return max(offset, os.lseek(self._fd, offset, os.SEEK_DATA) // BLOCK * BLOCK)
        except OSError:
            return self.size  # ENXIO: nothing but a hole is left

    def close(self) -> None:
        """See Source."""
        os.close(self._fd)


class Url:
    """What a web server gives.  A connection that breaks is made anew, from the byte where it broke."""

    def __init__(self, url: str, pauses: Sequence[float]) -> None:
        self._url = url
        self._pauses = pauses
        self._answer = self._ask(0)
        self.size = self._said_size(self._answer)
        headers = self._answer.headers
        self._mark = headers.get("ETag") or headers.get("Last-Modified") or ""
        self._ranges = self._answer.status == 206
        path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
        self.name = path.rstrip("/").rpartition("/")[2]
        self._head = b""
        while len(self._head) < min(HEAD, self.size) and (block := self._read(self._answer)):
            self._head += block

    def at(self, offset: int, length: int) -> bytes:
        """See Source."""
        if offset + length <= len(self._head) or not self._ranges:
            return self._head[offset : offset + length]
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        try:
            with self._ask(offset, offset + length - 1) as answer:
                return answer.read(length) if answer.status == 206 else b""
        except OSError as error:
            raise Failure(f"{self._url}: {error}", TRY_AGAIN) from error

    def blocks(self) -> Iterator[bytes | int]:
        """See Source."""
        for begin in range(0, len(self._head), BLOCK):
            yield self._head[begin : begin + BLOCK]
        offset, tried = len(self._head), 0
        while offset < self.size:
            block = self._read(self._answer)[: self.size - offset]
            if block:
                yield block
                offset, tried = offset + len(block), 0
                continue
            if tried == len(self._pauses):
                raise Failure(f"{self._url} broke off after {offset} of {self.size} bytes", TRY_AGAIN)
            time.sleep(self._pauses[tried])
            tried += 1
            self._take_up(offset)

    def close(self) -> None:
        """See Source."""
        self._answer.close()

    def _read(self, answer: HTTPResponse) -> bytes:
        """A block, b"" when the connection is over."""
        try:
            return answer.read(BLOCK)
        except (OSError, HTTPException):
            return b""

    def _take_up(self, offset: int) -> None:
        """Another connection, from there; where it cannot be had, the next attempt will see."""
        self._answer.close()
        try:
            answer = self._ask(offset)
        except Failure as failure:
            if failure.exit_code != TRY_AGAIN:
                raise
            return
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if mark != self._mark or self._said_size(answer) != self.size:
            raise Failure(f"{self._url} has changed while it was read")
        self._answer = answer
        if answer.status == 206:
            return
        skipped = 0
        while skipped < offset and (block := self._read_at_most(answer, offset - skipped)):
            skipped += len(block)

    def _read_at_most(self, answer: HTTPResponse, length: int) -> bytes:
        try:
            return answer.read(min(BLOCK, length))
        except (OSError, HTTPException):
            answer.close()
            return b""

    def _ask(self, first: int, last: int | None = None) -> HTTPResponse:
        """GET from that byte on.  Failure."""
        wanted = f"bytes={first}-{'' if last is None else last}"
        request = urllib.request.Request(self._url, headers={"Range": wanted, "User-Agent": "clusterhost"})
        try:
            answer: HTTPResponse = urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and not first:
                raise Failure(f"{self._url} is empty") from error
            code = TRY_AGAIN if error.code in _AGAIN else NOT_FOUND if error.code in (404, 410) else FAILED
            raise Failure(f"{self._url}: the server says {error.code} {error.reason}", code) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Failure(f"{self._url} cannot be had: {reason}", TRY_AGAIN) from error
        if urllib.parse.urlsplit(answer.url).scheme not in ("http", "https"):
            answer.close()
            raise Failure(f"{self._url} leads to {answer.url}, which is neither http nor https")
        return answer

    def _said_size(self, answer: HTTPResponse) -> int:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        length = total if answer.status == 206 else answer.headers.get("Content-Length", "")
        if not length.isdigit():
            answer.close()
            raise Failure(
                f"{self._url}: the server does not say how large it is; fetch it first, then import the file"
            )
        return int(length)
