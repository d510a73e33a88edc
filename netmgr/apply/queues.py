"""Rates that a link sends by, as the kernel's queue "htb" has them, by pyroute2.  Decides nothing.

One class for all.  Within it "sfq", as libvirt has it, gives each connection its share, where the kernel has that.
"""

from __future__ import annotations

import contextlib
import errno

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.tcmsg.common import tick_in_usec

from netmgr.shaping import Queue, least_burst

KIND = "htb"
_ROOT, _CLASS, _WITHIN = 0x10000, 0x10001, 0x20000
_AT_ROOT = 0xFFFFFFFF
_SHUFFLE_SECONDS = 10


def read(route: IPRoute, index: int) -> Queue:
    """What a link has, all zeros when that is none of ours.  NetlinkError."""
    for found in route.get_classes(index=index):
        options = found.get_attr("TCA_OPTIONS")
        if found["handle"] != _CLASS or options is None:
            continue
        parameters = options.get_attr("TCA_HTB_PARMS")
        rate = int(options.get_attr("TCA_HTB_RATE64") or parameters["rate"])
        ceil = int(options.get_attr("TCA_HTB_CEIL64") or parameters["ceil"])
        burst = int(parameters["buffer"] / tick_in_usec * rate / 1_000_000)
        return Queue(rate, ceil, burst)
    return Queue(0, 0, 0)


def write(route: IPRoute, index: int, queue: Queue | None) -> None:
    """Have it as it says, None: without.  NetlinkError, OSError."""
    with contextlib.suppress(NetlinkError):  # there may be none
        route.tc("del", index=index, parent=_AT_ROOT)
    if queue is None:
        return
    try:
        route.tc("add", KIND, index, _ROOT, default=_CLASS & 0xFFFF)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            raise OSError("this kernel has no HTB (sch_htb): no <bandwidth> can be had here") from None
        raise
    burst = {"burst": queue.burst, "cburst": least_burst(queue.ceil)}
    route.tc("add-class", KIND, index, _CLASS, parent=_ROOT, rate=queue.rate, ceil=queue.ceil, **burst)
    with contextlib.suppress(NetlinkError):  # a kernel without it: first come, first served
        route.tc("add", "sfq", index, _WITHIN, parent=_CLASS, perturb=_SHUFFLE_SECONDS)
