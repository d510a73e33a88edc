"""What a guest has to know of its networks at its first boot, as JSON has it.  Changes nothing.

It is what the network's DHCP would tell it; of an interface on somebody else's network only the MAC is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from clusterhost.model.cluster import Cluster
from clusterhost.model.errors import InvalidXml
from clusterhost.service.network_nodes import underlay_address
from clusterhost.service.networking import Networking
from clusterhost.service.networks import Net
from clusterhost.store.rows import LeaseRow
from compat.xmldoc import Element, XmlDocument, XmlError
from netmgr.model import Ip, Network
from netmgr.wanted import vxlan_mtu


class Told:
    """Looks it up; holds nothing."""

    def __init__(self, cluster: Cluster, networking: Networking) -> None:
        self._cluster = cluster
        self._networking = networking

    def interfaces(self, xml: str) -> list[dict[str, object]]:
        """Of a domain's definition in their order, each with what imagemgr.seeds.Interface wants.  InvalidXml."""
        try:
            elements = XmlDocument.parse(xml).all("devices/interface")
        except XmlError as error:
            raise InvalidXml(str(error)) from error
        return [self._interface(element) for element in elements]

    def _interface(self, element: Element) -> dict[str, object]:
        mac = _attribute(element, "mac", "address").lower()
        name = _attribute(element, "source", "network")
        net = next((net for net in self._networking.networks.all() if net.name == name), None)
        found: dict[str, object] = {"mac": mac, "network": name}
        if net is None or not net.shown.mode.has_own_bridge:
            return {**found, "dhcp4": True}
        return {**found, **self._served(net, mac)}

    def _served(self, net: Net, mac: str) -> dict[str, object]:
        """On a network of ours."""
        network = net.shown
        rows = self._networking.addresses.of_network(net.uuid)
        ips = list(_ips(network, [row for row in rows if row.mac == mac and row.address]))
        return {
            "addresses": [f"{row.address}/{ip.bits}" for row, ip in ips],
            "gateways": [str(ip.address) for _, ip in ips] if network.mode.routes else [],
            "dns": [str(ip.address) for _, ip in ips] if network.dns.enable is not False else [],
            "search": [network.domain.name] if network.domain is not None else [],
            "mtu": network.mtu or self._carried(),
        }

    def _carried(self) -> int:
        """Bytes of an MTU that the overlay carries between all nodes, 0 where that is not known."""
        fits = [
            vxlan_mtu(node.host.underlay_mtu, address)
            for node in self._cluster.cells()
            if node.host.has_files and node.host.underlay_mtu and (address := underlay_address(node))
        ]
        return min(fits, default=0)


def _ips(network: Network, rows: list[LeaseRow]) -> Iterator[tuple[LeaseRow, Ip]]:
    """Each address with the element of the network whose subnet it is in; one that has moved away has none."""
    for row in sorted(rows, key=lambda row: row.family):
        ip = next((ip for ip in network.ips if ip_address(row.address) in ip.subnet), None)
        if ip is not None:
            yield row, ip


def _attribute(element: Element, child: str, name: str) -> str:
    found = element.find(child)
    return (found.get(name) or "") if found is not None else ""
