"""SMBIOS-like information of the cluster, in libvirt's `<sysinfo>` form.  Pure.

A cluster has no firmware.  Inventory tools that ask for it look for maker, product and uuid of the host,
and get the cluster's; each node is one base board, whose own tables are seen through its view.
"""

from __future__ import annotations

from collections.abc import Sequence

from clusterhost.frontend.libvirt.hostview.cells import Cell
from clusterhost.frontend.libvirt.hostview.trees import Element, make, write


def build(uuid: str, name: str, cells: Sequence[Cell]) -> str:
    """The document."""
    root = make("sysinfo", type="smbios")
    root.append(
        _block("system", manufacturer="clusterhost", product="libvirt cluster", serial=name, uuid=uuid)
    )
    for cell in cells:
        root.append(_block("baseBoard", product=cell.node.name, location=f"cell {cell.node.cell}"))
    return write(root)


def _block(tag: str, **entries: str) -> Element:
    block = make(tag)
    block.extend(make("entry", text, name=name) for name, text in entries.items())
    return block
