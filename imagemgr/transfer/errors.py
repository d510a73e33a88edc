"""What can go wrong with a transfer, in our words."""

from __future__ import annotations

from imagemgr.errors import ImageError


class TransferRefused(ImageError):
    """It cannot be done as asked; nothing was changed."""


class TransferFailed(ImageError):
    """It was begun and did not end; the text says what was missing and what became of it."""


class SourceGone(Exception):
    """A source cannot be reached, or does not talk as it should; the text says why."""


class SourceCorrupt(Exception):
    """A source sent bytes that are not those of the digest."""


class Stopped(Exception):
    """Somebody ended the fetch."""
