"""What can be wrong with a pool or a volume, in our words.  No wire numbers: the edge has libvirt's codes.  Pure.

Each class stands for one code of libvirt, so that a client sees what libvirt would have said.
"""

from __future__ import annotations


class ImageError(Exception):
    """Base: one sentence that says what was found and what was allowed."""


class XmlMalformed(ImageError):
    """It is not XML, or a name has a line break in it."""


class XmlInvalid(ImageError):
    """Well-formed, but an element or a value is missing or not allowed there."""


class XmlRefused(ImageError):
    """Harmless to libvirt, not to us: a document type, an entity, or larger than we take."""


class ConfigUnsupported(ImageError):
    """Well-formed, but a format, kind or feature that there is not."""


class NotOfThisPool(ImageError):
    """Pools of other types have this, those of this type have not."""


class BadValue(ImageError):
    """A world wide name that is none."""


class BadUnit(ImageError):
    """A unit of bytes that there is not."""


class TooLarge(ImageError):
    """More bytes than a file can have."""


class Clash(ImageError):
    """Another pool has this name, uuid or source."""


class NameRefused(ImageError):
    """No volume can have this name."""


class PathRefused(ImageError):
    """A path that leaves its pool, or is none."""


class ManifestDamaged(ImageError):
    """Bytes that are no manifest, or one that contradicts itself."""


class CopyAway(ImageError):
    """Every node that has the newest copy of a volume is out of reach."""


class CopyIncomplete(ImageError):
    """No node has all of a volume."""


class Occupied(ImageError):
    """A file of another volume is in the way."""


class HeaderDamaged(ImageError):
    """An image's header that ends too early, points out of its file, or contradicts itself."""


class FormatDiffers(ImageError):
    """An image that is not of the format that it is said to have."""


class SeedRefused(ImageError):
    """A guest cannot be told this at its first boot."""
