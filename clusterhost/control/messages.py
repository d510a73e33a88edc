"""What the front end and the agents say to each other: tagged msgspec structs.  Shapes only: no sockets, no clock.

Every message is one ZeroMQ message of one or two frames: the MessagePack of one of these structs, then, where
the docstring says "+ payload", the raw bytes of a libvirt packet's payload (never re-encoded on the way).

Two sockets an agent: *control* (small, ordered, heartbeats, calls) and *bulk* (streams, tunnels, files).  Calls that
need no order among the numbered messages, and their answers, go by a *direct* connection when there is one (direct.py).
Routing ids are the router's own; ZAP binds the CURVE key to a node's name, and the hub checks that the first message
of a connection (`Hello`, `Register`, `Attach`) names that node.
Unknown fields are ignored and an unknown tag is answered `Unsupported`, so versions N and N-1 work together.
"""

from __future__ import annotations

import msgspec

PROTOCOL = 1
"""Version of this vocabulary; `Hello` offers a range, `Welcome` names the one in use."""

MAX_MESSAGE = 40 * 1024 * 1024
"""Bytes: a libvirt message of 32 MiB with room for the envelope (ZMQ_MAXMSGSIZE)."""

STREAM_WINDOW = 2 * 1024 * 1024
"""Bytes that may be under way on one stream, per direction, before a `Credit` is needed."""

CREDIT_STEP = STREAM_WINDOW // 5
"""Bytes passed on before they are told, less than two of libvirt's packets: a message for each would be waste."""


class Message(msgspec.Struct, tag_field="t", frozen=True, omit_defaults=True):
    """Base of all messages."""


# ---- facts and reports (values inside messages) -----------------------------------------------------------


class DomainReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One domain as its node's libvirtd tells it.  Memory in KiB; uuid 16 raw bytes; id is the node's, -1 off."""

    uuid: bytes
    name: str
    id: int = -1
    state: int = 0
    reason: int = 0
    persistent: bool = True
    managed_save: bool = False
    max_memory: int = 0
    memory: int = 0
    vcpus: int = 0
    cpu_time: int = 0
    autostart: bool = False
    os_type: str = "hvm"
    generation: int = 0


class NodeStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changes by the second.  Memory in bytes; cpu times are cumulative nanoseconds of the whole node."""

    free_memory: int = 0
    cpu: dict[str, int] = {}
    memory: dict[str, int] = {}


class NodeFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node is.  Sent with a snapshot; `capabilities` is libvirt's XML, memory_kib its NODE_GET_INFO,
    domain_capabilities one document for each domain type."""

    hostname: str = ""
    model: str = ""
    memory_kib: int = 0
    cpus: int = 0
    mhz: int = 0
    nodes: int = 1
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    libvirt_version: int = 0
    hypervisor_version: int = 0
    hypervisor_type: str = "QEMU"
    capabilities: str = ""
    domain_capabilities: list[str] = []
    uri: str = ""
    migration_address: str = ""
    has_files: bool = True
    """True when the agent runs on the node and can read its files (NVRAM, TPM state, managed save)."""
    underlay: str = ""
    """IP address at which other nodes reach its VXLAN links; "" when it is not known."""
    underlay_mtu: int = 0
    """Of the link that has it, in bytes; 0 when it is not known."""


# ---- agent to front end, control socket -------------------------------------------------------------------


class Register(Message, tag="register", frozen=True):
    """First and only message under a one-time join key: the agent's own CURVE public key (z85)."""

    node: str
    public_key: str


class Hello(Message, tag="hello", frozen=True):
    """First message of a connection.  `incarnation` rises with each start of the agent, `dial` with each pair of
    connections that it makes; boot_id is the kernel's."""

    node: str
    incarnation: int
    boot_id: str
    lowest: int = PROTOCOL
    highest: int = PROTOCOL
    epoch_seen: int = 0
    version: str = ""
    dial: int = 0


class Snapshot(Message, tag="snapshot", frozen=True):
    """Everything the node has; the change after it carries seq + 1.  virt_up False: libvirtd does not answer."""

    seq: int
    facts: NodeFacts
    domains: list[DomainReport]
    stats: NodeStats
    virt_up: bool = True


class Changed(Message, tag="changed", frozen=True):
    """A domain as it is now (new or changed)."""

    seq: int
    domain: DomainReport


class Gone(Message, tag="gone", frozen=True):
    """A domain that the node no longer has."""

    seq: int
    uuid: bytes


class Definition(Message, tag="definition", frozen=True):
    """The inactive XML (with security data) of a persistent domain, after it changed."""

    seq: int
    uuid: bytes
    xml: str


class Event(Message, tag="event", frozen=True):
    """+ payload: one event of the node's libvirtd, callback form, as it came; its order among all numbered
    messages and replies is libvirtd's."""

    seq: int
    program: int
    procedure: int


class Beat(Message, tag="beat", frozen=True):
    """Every second: alive, and the figures.  seq is the last number sent (not a new one)."""

    seq: int
    stats: NodeStats
    virt_up: bool = True
    virt_reason: str = ""


class Reply(Message, tag="reply", frozen=True):
    """+ payload: the answer of the node's libvirtd to `Relay` id: the ret struct if ok, else its error struct.
    `report`: the domain after a call that may have changed it (asked for by Relay.report).
    `gone`: uuid asked for no longer exists there.  `replayed`: answered from the durable operation table."""

    id: int
    ok: bool
    report: DomainReport | None = None
    gone: bool = False
    replayed: bool = False


class Failed(Message, tag="failed", frozen=True):
    """The agent itself could not carry out call or operation `id`.  kind: libvirtd-down | busy | deadline | cancelled |
    stale-generation | storage | refused | unsupported."""

    id: int
    kind: str
    reason: str


class Done(Message, tag="done", frozen=True):
    """+ payload (may be empty): result of an `Operation`; `result` is the operation's own struct as MessagePack."""

    id: int
    result: bytes = b""


class Progress(Message, tag="progress", frozen=True):
    """How far a long operation is."""

    id: int
    done: int
    total: int
    what: str = ""


class Unsupported(Message, tag="unsupported", frozen=True):
    """Answer to a tag this side does not know."""

    id: int
    what: str


# ---- front end to agent, control socket -------------------------------------------------------------------


class Registered(Message, tag="registered", frozen=True):
    """The join key is used up; connect again with your own key."""

    node: str


class Welcome(Message, tag="welcome", frozen=True):
    """Answer to Hello.  The agent sends a Snapshot next.  `stale`: uuid -> generation of domains that must not run
    here any more (destroyed without touching disks, before anything else is done).
    direct_port: 0, or where the agent may dial a direct connection, at the same host; it shows `ticket` there, and
    goes on only if the SHA-256 of the certificate is `direct_key`."""

    protocol: int
    epoch: int
    refused: str = ""
    stale: dict[str, int] = {}
    direct_port: int = 0
    direct_key: bytes = b""
    ticket: bytes = b""


class WantSnapshot(Message, tag="want-snapshot", frozen=True):
    """A gap was seen in the numbers: send a new snapshot."""


class Subscribe(Message, tag="subscribe", frozen=True):
    """Which costly event sources somebody listens to."""

    monitor_events: bool = False


class Relay(Message, tag="relay", frozen=True):
    """+ payload: one libvirt call, as the client sent it.

    session: 0 = the shared pool; else a connection of its own, kept for that client until `SessionClose`
    (autodestroy and whatever libvirt ties to a connection).
    report: uuid whose report must come with the reply (the call may change it).
    long: may take long; gets a connection of its own so that it blocks nobody.
    op, generation: set for calls that must not be done twice; the agent records them durably before acting,
    answers a repeat from its table, and refuses a generation lower than the one it knows.
    deadline_ms: relative; 0 = none."""

    id: int
    program: int
    procedure: int
    epoch: int = 0
    readonly: bool = False
    long: bool = False
    session: int = 0
    report: bytes | None = None
    op: str = ""
    domain: bytes | None = None
    generation: int = 0
    deadline_ms: int = 0


class OpenStream(Message, tag="open-stream", frozen=True):
    """+ payload: a call that opens a stream; the agent gives it a connection of its own.  Its `Reply` comes on
    control, the packets on bulk with the same id.  session: 0, or the connection is kept until `SessionClose`.
    file: "", or the path of the file whose bytes the stream is: the agent may read or write them itself.
    direct_port, direct_key, ticket: as in Welcome, for a connection of this stream alone.  The front end's `Taken` says
    on it that the packets go there."""

    id: int
    program: int
    procedure: int
    epoch: int = 0
    readonly: bool = False
    session: int = 0
    file: str = ""
    direct_port: int = 0
    direct_key: bytes = b""
    ticket: bytes = b""


class Taken(Message, tag="taken", frozen=True):
    """The front end has seen the stream's ticket."""


class SessionClose(Message, tag="session-close", frozen=True):
    """The client of that session is gone."""

    session: int


class Cancel(Message, tag="cancel", frozen=True):
    """Nobody waits for call `id` any more: it is dropped if it still waits for libvirtd and has no operation id;
    what is at libvirtd goes on.  0: is the connection still there?"""

    id: int


class Operation(Message, tag="operation", frozen=True):
    """+ payload (may be empty): a step that is ours, not libvirt's.  `kind` names it, `args` is its own struct
    (control/operations.py) as MessagePack."""

    id: int
    kind: str
    args: bytes
    op: str = ""
    epoch: int = 0
    domain: bytes | None = None
    generation: int = 0
    deadline_ms: int = 0


# ---- bulk socket, both ways -------------------------------------------------------------------------------


class Attach(Message, tag="attach", frozen=True):
    """First message of a bulk connection: joins it to the control connection of the same node, incarnation and dial."""

    node: str
    incarnation: int
    dial: int = 0


class StreamPacket(Message, tag="packet", frozen=True):
    """+ payload: one packet of stream `id`.  kind: data | hole | end (server's empty CONTINUE) | finish (client's OK)
    | finished (server's OK) | abort (client's ERROR) | failed (server's ERROR + error struct).
    For hole, `length` and `flags` say it."""

    id: int
    kind: str
    length: int = 0
    flags: int = 0


class Credit(Message, tag="credit", frozen=True):
    """The receiver of stream or tunnel `id` has passed on that many bytes."""

    id: int
    bytes: int


class TunnelOpen(Message, tag="tunnel-open", frozen=True):
    """agent to front end: a libvirtd of this node dialled the socket of peer `peer` (peer-to-peer migration);
    front end to agent: dial your libvirtd for tunnel `id`, or, when it is given, `address` on your node
    (`tcp:HOST:PORT`, `unix:PATH`: a domain's display)."""

    id: int
    peer: str
    address: str = ""


class TunnelData(Message, tag="tunnel-data", frozen=True):
    """+ payload: bytes of tunnel `id`; empty payload: that direction is closed."""

    id: int
    origin: bool
    """True when it travels from the dialling side."""


ToFrontEnd = (
    Register
    | Hello
    | Snapshot
    | Changed
    | Gone
    | Definition
    | Event
    | Beat
    | Reply
    | Failed
    | Done
    | Progress
    | Unsupported
)
ToAgent = (
    Registered
    | Welcome
    | WantSnapshot
    | Subscribe
    | Relay
    | OpenStream
    | SessionClose
    | Cancel
    | Operation
    | Unsupported
)
Answered = Reply | Failed
Bulk = Attach | StreamPacket | Credit | TunnelOpen | TunnelData | Taken | Unsupported

encode = msgspec.msgpack.Encoder().encode
decode_to_front_end = msgspec.msgpack.Decoder(ToFrontEnd).decode
decode_to_agent = msgspec.msgpack.Decoder(ToAgent).decode
_decode_bulk = msgspec.msgpack.Decoder(Bulk).decode
decode_relay = msgspec.msgpack.Decoder(Relay).decode
decode_answer = msgspec.msgpack.Decoder(Answered).decode


def decode_bulk(body: bytes) -> Bulk | None:
    """None for what is not understood."""
    try:
        message: Bulk = _decode_bulk(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return message


def unsupported(body: bytes) -> Unsupported:
    """The answer to a message that could not be decoded."""
    try:
        found = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    tag, id = (found.get("t"), found.get("id")) if isinstance(found, dict) else (None, None)
    return Unsupported(id if isinstance(id, int) else 0, str(tag)[:80])
