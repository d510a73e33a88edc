"""What a node is asked about images, and what it answers.  Pure.

Paths are absolute and those of the node.  A digest is the BLAKE3 of a manifest's encoding, holes and zeros being the
same (chunks.content_only), so it says what a reader sees, whatever room the file takes.
"""

from __future__ import annotations

import msgspec

OFFER, FETCH, STOP, DIGEST = "image-offer", "image-fetch", "image-stop", "image-digest"
REMOVE, PARTS = "image-remove", "image-parts"


class OfferArgs(msgspec.Struct, frozen=True):
    """kind "image-offer": let others fetch the file at `path`; the answer is Offered.

    digest (with `size`): not the file that is there, but the image of this digest that an "image-fetch" to this path
    brings or is about to: what has come of it is passed on.  bytes_per_second: for all who fetch by this offer, 0 for
    no limit."""

    path: str
    digest: bytes = b""
    size: int = 0
    bytes_per_second: int = 0


class Offered(msgspec.Struct, frozen=True):
    """Where it is served and what shows that it may be fetched.  size: bytes; fingerprint: SHA-256 of the certificate.

    The ticket is good for as many receivers as show it, until an hour has passed in which none did."""

    size: int
    digest: bytes
    address: str
    port: int
    fingerprint: bytes
    ticket: bytes


class Source(msgspec.Struct, frozen=True):
    """A node that offered it; `node` is for messages only."""

    node: str
    address: str
    port: int
    fingerprint: bytes
    ticket: bytes


class FetchArgs(msgspec.Struct, frozen=True):
    """kind "image-fetch": have the image at `path`, from any of the sources; the answer is Fetched.

    Takes up what an earlier one left in `.clusterhost`.  bytes_per_second: 0 for no limit.  block: `path` is a block
    device, which is overwritten in place.  replace: a file with other content that is there may be replaced.  local:
    files of this node that may have the same content: what they have of it is taken from there, verified, and does not
    come.  The same order again joins the one that runs."""

    path: str
    size: int
    digest: bytes
    sources: tuple[Source, ...]
    bytes_per_second: int = 0
    block: bool = False
    replace: bool = False
    local: tuple[str, ...] = ()


class Fetched(msgspec.Struct, frozen=True):
    """It is there, whole and on the disk.  received: bytes that came by the network, 0 when it was there before."""

    size: int
    digest: bytes
    received: int
    seconds: float


class StopArgs(msgspec.Struct, frozen=True):
    """kind "image-stop": end the fetch to this path, if one runs; what has come stays, for a later one."""

    path: str


class DigestArgs(msgspec.Struct, frozen=True):
    """kind "image-digest": what these files hold; the answer is list[bytes], b"" where there is no such file.

    again: they are read, also where nothing was written to them since they were read last."""

    paths: tuple[str, ...]
    again: bool = False


class RemoveArgs(msgspec.Struct, frozen=True):
    """kind "image-remove": what an unfinished fetch to this path left, never the file itself.  Ends one that runs."""

    path: str


class PartsArgs(msgspec.Struct, frozen=True):
    """kind "image-parts": what unfinished fetches left in this directory; the answer is list[Part]."""

    directory: str


class Part(msgspec.Struct, frozen=True):
    """Left of a fetch.  size: of the whole image; done: bytes of data that are there; digest: b"" where the journal
    cannot be read."""

    name: str
    size: int
    done: int
    digest: bytes


ARGUMENTS: dict[str, type[msgspec.Struct]] = {
    OFFER: OfferArgs,
    FETCH: FetchArgs,
    STOP: StopArgs,
    DIGEST: DigestArgs,
    REMOVE: RemoveArgs,
    PARTS: PartsArgs,
}
"""By kind."""
