"""The pool `default` of a new cluster: clients expect one, virt-install makes one where there is none.  Made once."""

from __future__ import annotations

from clusterhost.service.ledger import Ledger
from clusterhost.service.pool_nodes import PoolNodes
from clusterhost.service.pools import Pools
from clusterhost.service.ports import Caller
from clusterhost.store.rows import SetMeta

KEY = "default_pool"
"""Of the store: "wanted" from the cluster's first moment on, "made" for ever after."""
WANTED, MADE = "wanted", "made"
DOCUMENT = """<pool type='dir'><name>default</name>
<target><path>/var/lib/libvirt/images</path></target></pool>"""
"""What clients make: https://libvirt.org/storage.html#directory-pool"""


async def make_once(ledger: Ledger, pools: Pools, nodes: PoolNodes) -> None:
    """Define, start and autostart it in a cluster that is new; whoever undefines it does so for good.  Nodes that join
    make its directory where it is missing."""
    if ledger.meta.get(KEY) != WANTED:
        return
    caller = Caller(who="clusterhost")
    if not any(entry.name == "default" for entry in pools.all()):
        await pools.define(caller, DOCUMENT)
    entry = pools.by_name("default")
    await ledger.commit(nodes.built(entry.uuid))
    if not entry.active:
        await pools.start(caller, entry.uuid)
    await pools.set_autostart(caller, entry.uuid, True)
    await ledger.commit(SetMeta(KEY, MADE))
