"""imagemgr's refusals in the service's terms, and what a document says before anybody has looked at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clusterhost.model.cluster import format_uuid
from clusterhost.model.errors import StorageRefused
from compat.xmldoc import XmlDocument
from imagemgr.errors import ImageError


@contextmanager
def refusals() -> Iterator[None]:
    """imagemgr's errors become StorageRefused, which says which."""
    try:
        yield
    except ImageError as error:
        raise StorageRefused(str(error), type(error).__name__) from error


def with_uuid(xml: str, uuid: bytes) -> str:
    """A <pool> that has been read, as it came but for its uuid."""
    document = XmlDocument.parse(xml)
    if document.find("/pool/uuid") is None:
        document.insert("/pool", "<uuid/>", 0)
    document.set_text("/pool/uuid", format_uuid(uuid))
    return document.to_string()
