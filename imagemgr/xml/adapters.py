"""<adapter> of scsi pools: read, and what must be in it.  Pure."""

from __future__ import annotations

import re

from compat.xmldoc import Element
from imagemgr.errors import BadValue, XmlInvalid
from imagemgr.model import Adapter, FcAdapter, PciAddress, ScsiAdapter
from imagemgr.xml.values import INT, any_base, choice, flag, integer, said

_WWN = re.compile(r"(?:0x)?[0-9a-fA-F]{16}")
LIMITS = (("bus", 0xFF), ("slot", 0x1F), ("function", 7))


def read_adapter(element: Element) -> Adapter | None:
    """None where neither a type nor a name is said; XmlInvalid."""
    kind = choice(element, "type", ("scsi_host", "fc_host"))
    if kind is None:
        return _read_untyped(element)
    if kind == "scsi_host":
        return _read_scsi(element)
    return FcAdapter(
        managed=flag(element, "managed"),
        parent=element.get("parent"),
        parent_wwnn=element.get("parent_wwnn"),
        parent_wwpn=element.get("parent_wwpn"),
        parent_fabric_wwn=element.get("parent_fabric_wwn"),
        wwpn=element.get("wwpn"),
        wwnn=element.get("wwnn"),
    )


def _read_untyped(element: Element) -> Adapter | None:
    """As in documents older than the attribute: a name, nothing else."""
    for attribute in ("wwnn", "wwpn", "parent"):
        if element.get(attribute) is not None:
            raise XmlInvalid(f"<adapter> has {attribute} but no type")
    if element.find("parentaddr") is not None:
        raise XmlInvalid("<adapter> has <parentaddr> but no type")
    name = element.get("name")
    return None if name is None else ScsiAdapter(name)


def _read_scsi(element: Element) -> ScsiAdapter:
    name = element.get("name")
    if element.find("parentaddr") is None:
        return ScsiAdapter(name)
    address = element.find("parentaddr/address")
    if address is None:
        raise XmlInvalid("<parentaddr> has no <address>")
    found = _read_address(address)
    text = said(element, "./parentaddr/@unique_id")
    unique = integer(text, 0, INT)
    if unique is None:
        raise XmlInvalid(f"unique_id of <parentaddr> is '{text}', allowed are 0 to {INT}")
    return ScsiAdapter(name, found, unique)


def _read_address(element: Element) -> PciAddress:
    found = PciAddress(*(any_base(element, name) for name in ("domain", "bus", "slot", "function")))
    choice(element, "multifunction", ("on", "off"))
    if found.domain or found.bus or found.slot:
        for name, most in LIMITS:
            if getattr(found, name) > most:
                raise XmlInvalid(f"{name} of <address> is {getattr(found, name)}, {most} is the most")
    return found


def check_adapter(adapter: Adapter | None) -> None:
    """What a scsi pool needs of it; XmlInvalid, BadValue."""
    match adapter:
        case None:
            raise XmlInvalid("the pool has no <adapter> in its source")
        case FcAdapter():
            _check_fc(adapter)
        case ScsiAdapter(name=None, parent=None):
            raise XmlInvalid("<adapter> has neither name nor <parentaddr>")
        case ScsiAdapter(name=str(), parent=PciAddress()):
            raise XmlInvalid("<adapter> has a name and <parentaddr>, one is allowed")


def _check_fc(adapter: FcAdapter) -> None:
    if adapter.wwnn is None or adapter.wwpn is None:
        raise XmlInvalid("<adapter> of type fc_host needs wwnn and wwpn")
    _check_names(adapter.wwnn, adapter.wwpn)
    if (adapter.parent_wwnn is None) != (adapter.parent_wwpn is None):
        raise XmlInvalid("<adapter> has one of parent_wwnn and parent_wwpn, both or none are allowed")
    _check_names(adapter.parent_wwnn, adapter.parent_wwpn, adapter.parent_fabric_wwn)


def _check_names(*names: str | None) -> None:
    for name in names:
        if name is not None and _WWN.fullmatch(name) is None:
            raise BadValue(f"'{name}' is no world wide name, it has 16 hexadecimal digits")
