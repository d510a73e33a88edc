"""<pool> and <volume> documents: read, and written as libvirt writes them.  Pure."""

from imagemgr.xml.pools import read_pool, read_source
from imagemgr.xml.volumes import Capacity, read_volume
from imagemgr.xml.writing import write_pool, write_source, write_volume

__all__ = [
    "Capacity",
    "read_pool",
    "read_source",
    "read_volume",
    "write_pool",
    "write_source",
    "write_volume",
]
