"""What a node is told about its networks, and what it answers: tagged structs.  Pure."""

from __future__ import annotations

import msgspec

from netmgr.changes import NetworkChange
from netmgr.wanted import GuestGone, WantedGuest, WantedNetwork


class SetNetwork(msgspec.Struct, frozen=True, tag="set"):
    """Have this network as it says, whatever was there of it before.  take_over: in the place of the node's own of its
    name, if there is one.  shadow: document (fill.shadow) of the network at the node's libvirtd, "" for none."""

    network: WantedNetwork
    take_over: bool = False
    shadow: str = ""


class PassNetwork(msgspec.Struct, frozen=True, tag="pass"):
    """Have this network (uuid as text) at libvirtd alone: its document (fill.shadow) names devices of the node."""

    uuid: str
    name: str
    serial: int
    shadow: str
    take_over: bool = False


class ChangeNetwork(msgspec.Struct, frozen=True, tag="change"):
    """Part of a network is different.  Refused when it is not there as the change assumes."""

    change: NetworkChange


class SetGuest(msgspec.Struct, frozen=True, tag="guest"):
    """One guest of a network (uuid as text) changed, or is gone."""

    uuid: str
    guest: WantedGuest | None = None
    gone: GuestGone | None = None


class RemoveNetwork(msgspec.Struct, frozen=True, tag="remove"):
    """Have nothing of it any more; no error when there is nothing."""

    uuid: str
    serial: int


class KeepOnly(msgspec.Struct, frozen=True, tag="keep"):
    """Remove every network that is not one of these (uuids as text): sent after an agent came back.  leaving: for good,
    so the node gets its own networks back."""

    uuids: tuple[str, ...]
    leaving: bool = False


class Survey(msgspec.Struct, frozen=True, tag="survey"):
    """Change nothing; say which links and addresses there are."""


Order = SetNetwork | PassNetwork | ChangeNetwork | SetGuest | RemoveNetwork | KeepOnly | Survey


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node has.  links: name -> uuid (text) of the network that it was made for, "" for what is not ours;
    subnets: of its own addresses, with prefix, without those of our bridges."""

    links: dict[str, str] = {}
    subnets: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """`problem`: why it is not done (yet), "" when it is; what could not be done is tried again by the node itself.
    found: the answer to Survey, None where nobody can look."""

    problem: str = ""
    found: Found | None = None


decode_order = msgspec.msgpack.Decoder(Order).decode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
encode = msgspec.msgpack.Encoder().encode
