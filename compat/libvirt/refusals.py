"""The errors that a daemon's RPC layer itself sends."""

from __future__ import annotations

from compat.libvirt.constants import VIR_ERR_ERROR, VIR_ERR_RPC, VIR_FROM_RPC
from compat.libvirt.messages.net import VirNetMessageError


def rpc_error(text: str) -> VirNetMessageError:
    """Return the error that a daemon's RPC layer itself sends (code 39, domain 7, level 2)."""
    return VirNetMessageError(
        VIR_ERR_RPC, VIR_FROM_RPC, text, VIR_ERR_ERROR, None, "%s", text, None, -1, -1, None
    )
