"""<network> documents: read, and written as libvirt writes them.  Pure."""

from netmgr.model import Network
from netmgr.xml import document, schema
from netmgr.xml.writing import write, write_interface, write_port_group


def read(xml: str, *, validate: bool = False) -> Network:
    """The network that a document describes; any error but those of updates.

    As libvirt's reader; what its network driver refuses besides is in rules.py, what a cluster does in check.py."""
    root = document.parse_network(xml)
    if validate:
        schema.check(root)
    return document.read_root(root)


__all__ = ["read", "write", "write_interface", "write_port_group"]
