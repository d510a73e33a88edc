"""The network `default` of a new cluster: clients expect one, as libvirt's own installation brings one.  Made once."""

from __future__ import annotations

from clusterhost.service.ledger import Ledger
from clusterhost.service.networks import Networks
from clusterhost.service.ports import Caller
from clusterhost.store.rows import SetMeta

KEY = "default_network"
"""Of the store: "wanted" from the cluster's first moment on, "made" for ever after."""
WANTED, MADE = "wanted", "made"
DOCUMENT = """<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'>
<dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip>
</network>"""
"""What libvirt's own has: https://libvirt.org/formatnetwork.html#nat-based-network"""


async def make_once(ledger: Ledger, networks: Networks) -> None:
    """Define, start and autostart it in a cluster that is new; whoever undefines it does so for good."""
    if ledger.meta.get(KEY) != WANTED:
        return
    caller = Caller(who="clusterhost")
    if not any(net.name == "default" for net in networks.all()):
        await networks.define(caller, DOCUMENT, validate=False)
    net = networks.by_name("default")
    if not net.active:
        await networks.start(caller, net.uuid)
    await networks.set_autostart(caller, net.uuid, True)
    await ledger.commit(SetMeta(KEY, MADE))
