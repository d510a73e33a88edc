"""What a trace asks of a node, and what the node sees: links, entries, rules, probes.  Pure: knows no domain.

Plain values with the format of a message, as in wanted.py: an empty text, zero or False says "not there".
"""

from __future__ import annotations

import msgspec


class _Value(msgspec.Struct, frozen=True, omit_defaults=True):
    pass


class Asked(_Value, frozen=True):
    """A network by its uuid, the names of its links, and the MACs whose entries are wanted."""

    uuid: str
    bridge: str
    overlay: str
    macs: tuple[str, ...] = ()


class Crossing(_Value, frozen=True):
    """Send frames of our own through a link, and listen for the other node's, for so many seconds at most.

    token: 16 bytes, the same on both nodes; first: this is the source's node."""

    link: str
    token: bytes
    first: bool
    seconds: float


class Probe(_Value, frozen=True):
    """Ask a guest for its address: one ARP question out of the bridge."""

    bridge: str
    address: str
    mac: str


class Question(_Value, frozen=True):
    """links: names of other links; ways: addresses whose route is wanted."""

    networks: tuple[Asked, ...] = ()
    links: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    crossing: Crossing | None = None
    probe: Probe | None = None


class SeenLink(_Value, frozen=True):
    """master: name of the bridge that it is a port of; forwarding, isolated: as a port; carrier: somebody is at its
    other end; vni, local, port: of a VXLAN link."""

    name: str
    kind: str = ""
    alias: str = ""
    mac: str = ""
    up: bool = False
    carrier: bool = False
    mtu: int = 0
    master: str = ""
    forwarding: bool = False
    isolated: bool = False
    vni: int = 0
    local: str = ""
    port: int = 0


class Rules(_Value, frozen=True):
    """Tables of a network: the families that have one; the digest of the script that they were loaded from, "" when
    they are not as it left them."""

    families: tuple[str, ...] = ()
    digest: str = ""


class Stranger(_Value, frozen=True):
    """A base chain that is not ours: family, table and name; its hook; whether it drops what its rules do not accept,
    and how many of its rules drop or reject."""

    name: str
    hook: str
    closed: bool = False
    drops: int = 0


class Way(_Value, frozen=True):
    """The route to an address; problem: the kernel's words where there is none.  mtu: of the device."""

    device: str = ""
    source: str = ""
    gateway: str = ""
    mtu: int = 0
    problem: str = ""


class Crossed(_Value, frozen=True):
    """heard: a frame of the other node came; answered: it said that ours came there.  problem: why none was sent."""

    heard: bool = False
    answered: bool = False
    problem: str = ""


class Sight(_Value, frozen=True):
    """Of what was asked for, what is there.

    addresses: bridge -> addresses with prefix; remote: VXLAN link -> MAC -> underlay addresses; bridged: VXLAN link ->
    MACs that the bridge sends to it; neighbours: bridge -> address -> MAC; rules: by uuid; forwards: IP versions that
    the kernel forwards; filters_bridged: iptables sees bridged frames; replied: MAC that answered the probe."""

    links: dict[str, SeenLink] = {}
    addresses: dict[str, tuple[str, ...]] = {}
    remote: dict[str, dict[str, tuple[str, ...]]] = {}
    bridged: dict[str, tuple[str, ...]] = {}
    neighbours: dict[str, dict[str, str]] = {}
    rules: dict[str, Rules] = {}
    strangers: tuple[Stranger, ...] = ()
    ways: dict[str, Way] = {}
    forwards: tuple[int, ...] = ()
    filters_bridged: bool = False
    crossed: Crossed | None = None
    probed: bool = False
    replied: str = ""
    problem: str = ""


encode = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(Question).decode
decode_sight = msgspec.msgpack.Decoder(Sight).decode
