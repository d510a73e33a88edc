"""The one host that clients see, merged from what the nodes say.  Pure: no sockets, no clock, no store."""

from clusterhost.frontend.libvirt.hostview.view import Encoded, HostView

__all__ = ["Encoded", "HostView"]
