"""<forward>, <bridge>, <mac>, <mtu>: how a network is joined to the world.  XML to values.  Pure."""

from __future__ import annotations

from compat.xmldoc import Element
from netmgr.errors import BadValue, ConfigUnsupported, XmlInvalid, XmlMalformed
from netmgr.model import AddressRange, Bridge, Forward, Mode, Nat, Network, PciAddress, PortRange
from netmgr.xml.parts import once
from netmgr.xml.values import ULONG, address, any_base, choice, flag, is_multicast, number, parse_mac

PCI_LIMITS = {"domain": 0xFFFFFFFF, "bus": 0xFF, "slot": 0x1F, "function": 0x7}
PORT_LAST = 65535


def read_forward(element: Element | None) -> Forward:
    """<forward>, or none: isolated."""
    if element is None:
        return Forward()
    text = element.get("mode") or Mode.NAT
    if text not in set(Mode):
        raise ConfigUnsupported(f"the mode of <forward> is '{text}', allowed are {', '.join(Mode)}")
    mode = Mode(text)
    pf, devices = _read_pf(element), tuple(_read_device(child) for child in element.findall("address"))
    interfaces = _read_interfaces(element, bool(pf or devices))
    nat = _read_nat(once(element, "nat"))
    if nat is not None and mode is not Mode.NAT:
        raise XmlInvalid(f"<forward mode='{mode}'> has <nat>, only mode nat may")
    _check_unique(devices, "PCI device")
    driver = element.find("driver")
    name = "" if driver is None else choice(driver, "name", ("kvm", "vfio"), ConfigUnsupported) or ""
    if mode is Mode.NONE:
        return Forward(devices=devices)
    return Forward(
        mode,
        interfaces,
        devices,
        "" if interfaces else pf,  # libvirt overlooks it then
        mode is Mode.HOSTDEV and element.get("managed", "").lower() == "yes",
        name,
        nat,
    )


def _read_pf(element: Element) -> str:
    found = once(element, "pf")
    if found is None:
        return ""
    dev = found.get("dev")
    if dev is None:
        raise XmlInvalid("<pf> of <forward> has no dev")
    return dev


def _read_interfaces(element: Element, has_devices: bool) -> tuple[str, ...]:
    dev = element.get("dev")
    if dev and has_devices:
        raise XmlInvalid(f"<forward dev='{dev}'> has <address> or <pf> too, one of them is allowed")
    found = []
    for child in element.findall("interface"):
        if (name := child.get("dev")) is None:
            raise XmlInvalid("<interface> of <forward> has no dev")
        found.append(name)
    if dev and found and dev != found[0]:
        raise XmlInvalid(
            f"<forward dev='{dev}'> has <interface dev='{found[0]}'> as its first, both must be the same"
        )
    _check_unique(tuple(found), "interface")
    return tuple(found) or ((dev,) if dev else ())


def _check_unique(items: tuple[object, ...], what: str) -> None:
    for index, item in enumerate(items):
        if item in items[:index]:
            raise XmlInvalid(f"<forward> lists the {what} {item} twice")


def _read_device(element: Element) -> PciAddress:
    kind = element.get("type")
    if kind is None:
        raise XmlInvalid("<address> of <forward> has no type")
    if kind != "pci":
        raise ConfigUnsupported(f"the type of <address> is '{kind}', allowed is pci")
    return PciAddress(**{name: any_base(element, name, most) or 0 for name, most in PCI_LIMITS.items()})


def _read_nat(element: Element | None) -> Nat | None:
    if element is None:
        return None
    nat = Nat(
        _read_nat_addresses(once(element, "address")),
        _read_nat_ports(once(element, "port")),
        flag(element, "ipv6"),
    )
    return None if nat == Nat() else nat


def _read_nat_addresses(element: Element | None) -> AddressRange | None:
    if element is None:
        return None
    start, end = (address(element, name, version=4) for name in ("start", "end"))
    if start is None or end is None:
        raise XmlInvalid(f"<address> of <nat> has no {'start' if start is None else 'end'}")
    if int(start) > int(end):
        raise BadValue(f"the range {start} to {end} of <nat> is reversed")
    return AddressRange(start, end)


def _read_nat_ports(element: Element | None) -> PortRange | None:
    if element is None:
        return None
    start, end = (number(element, name, PORT_LAST, XmlMalformed) for name in ("start", "end"))
    if start is None or end is None or start > end:
        raise XmlMalformed(f"<port> of <nat> is from {start} to {end}, it needs both, in order")
    return PortRange(start, end) if end else None


def read_bridge(element: Element | None) -> Bridge:
    """<bridge>, or none."""
    if element is None:
        return Bridge()
    delay = number(element, "delay", ULONG) if element.get("delay") else 0
    return Bridge(
        element.get("name", ""),
        element.get("zone", ""),
        element.get("stp") != "off",
        delay or 0,
        choice(element, "macTableManager", ("kernel", "libvirt")) or "",
    )


def read_mac(element: Element | None) -> str:
    """<mac>; "" for none."""
    text = "" if element is None else element.get("address", "")
    if not text:
        return ""
    try:
        mac = parse_mac(text)
    except BadValue as error:
        raise XmlInvalid(f"<mac>: {error}") from None
    if is_multicast(mac):
        raise XmlInvalid(f"<mac> is the multicast address {text}, a bridge needs one of its own")
    return mac


def check_mode(network: Network, *, options: bool) -> None:
    """What a mode of <forward> needs and cannot have beside it; XmlInvalid.

    options: <bridge> came with stp, delay or zone, which only a bridge of ours has."""
    mode, forward, bridge = network.mode, network.forward, network.bridge
    if mode.has_own_bridge:
        _check_own(network)
        return
    if bridge.name and mode is not Mode.BRIDGE:
        raise XmlInvalid(f"<forward mode='{mode}'> has a bridge name, none is allowed")
    if options:
        raise XmlInvalid(f"<bridge> has delay, stp or zone, none is allowed in mode {mode}")
    if bridge.name and forward.interfaces:
        raise XmlInvalid(f"<forward mode='{mode}'> has a bridge name and a dev, one of them is allowed")
    if network.mtu:
        raise XmlInvalid(f"<mtu> is not allowed in mode {mode}")


def _check_own(network: Network) -> None:
    mode, forward = network.mode, network.forward
    if not mode.routes:
        return
    if not network.ips:
        raise XmlInvalid(f"<forward mode='{mode}'> has no <ip>, it needs one")
    if mode is Mode.OPEN and (forward.interfaces or forward.devices):
        raise XmlInvalid("<forward mode='open'> has a dev, none is allowed")
    if len(forward.interfaces) > 1:
        count = len(forward.interfaces)
        raise XmlInvalid(f"<forward mode='{mode}'> has {count} interfaces, one is allowed")
