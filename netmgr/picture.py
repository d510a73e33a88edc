"""Networks, nodes and guests as a picture shows them: plain values, which travel as JSON.  Pure; draws nothing."""

from __future__ import annotations

import msgspec


class _Value(msgspec.Struct, frozen=True):
    pass


class Part(_Value, frozen=True):
    """What a node has of a network: ok, or the reason why not."""

    node: str
    ok: bool
    reason: str = ""


class Net(_Value, frozen=True):
    """A network.  nodes: of an active one."""

    name: str
    active: bool
    mode: str
    bridge: str = ""
    vni: int = 0
    subnets: tuple[str, ...] = ()
    nodes: tuple[Part, ...] = ()


class Node(_Value, frozen=True):
    """A node, and its state in a few words."""

    name: str
    up: bool
    state: str


class Interface(_Value, frozen=True):
    """A guest's interface on a network, by the network's name."""

    network: str
    mac: str
    addresses: tuple[str, ...] = ()


class Guest(_Value, frozen=True):
    """A domain with interfaces on networks.  node: where it runs, or where its definition is."""

    name: str
    node: str
    running: bool
    state: str
    interfaces: tuple[Interface, ...] = ()


class Picture(_Value, frozen=True):
    """Everything, each in the order in which it is shown."""

    cluster: str
    networks: tuple[Net, ...] = ()
    nodes: tuple[Node, ...] = ()
    guests: tuple[Guest, ...] = ()


def read(found: object) -> Picture:
    """From what JSON has.  msgspec.ValidationError."""
    return msgspec.convert(found, Picture)
