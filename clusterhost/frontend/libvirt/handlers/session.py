"""What the session itself answers: authentication, open, features, the close callback.  Asks no node."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from clusterhost.frontend.libvirt import errors, identity
from clusterhost.model.node import Link
from compat.libvirt import messages
from compat.libvirt.constants import VirConnectCloseReason, VirConnectFlags, VirDrvFeature
from compat.libvirt.schema import BY_NAME

if TYPE_CHECKING:
    from clusterhost.frontend.libvirt.session import Session

AUTH_NONE = 0
FOR = " for "
"""Between who connected and whom it says it speaks for."""
INT = Struct(">i")
CLOSED = BY_NAME["remote:CONNECT_EVENT_CONNECTION_CLOSED"]
CANONICAL = "qemu:///system"

FEATURES = frozenset(
    {
        VirDrvFeature.MIGRATION_V2,
        VirDrvFeature.MIGRATION_P2P,
        VirDrvFeature.MIGRATION_V3,
        VirDrvFeature.MIGRATE_CHANGE_PROTECTION,
        VirDrvFeature.FD_PASSING,
        VirDrvFeature.TYPED_PARAM_STRING,
        VirDrvFeature.PROGRAM_KEEPALIVE,
        VirDrvFeature.XML_MIGRATABLE,
        VirDrvFeature.MIGRATION_OFFLINE,
        VirDrvFeature.MIGRATION_PARAMS,
        VirDrvFeature.REMOTE_EVENT_CALLBACK,
        VirDrvFeature.REMOTE_CLOSE_CALLBACK,
        VirDrvFeature.NETWORK_UPDATE_HAS_CORRECT_ORDER,
    }
)
"""As libvirtd answers for QEMU."""


def auth_list(session: Session, args: None) -> messages.RemoteAuthListRet:
    """Exactly one entry, as libvirtd."""
    return messages.RemoteAuthListRet(types=[AUTH_NONE])


def auth_refused(session: Session, args: object) -> None:
    """Neither SASL nor polkit is offered."""
    raise errors.authentication_failed()


def open_connection(session: Session, args: messages.RemoteConnectOpenArgs) -> None:
    """`qemu:///system`, nothing, or either with `?node=NAME`.  NodeNotFound, WireError."""
    if session.opened:
        raise errors.already_open()
    view = view_of(args.name)
    if view is not None:
        session.cluster.node(view)
    session.view = view
    session.readonly = session.readonly_socket or bool(args.flags & VirConnectFlags.RO)
    session.opened = True


def view_of(name: str | None) -> str | None:
    """The node that a name opens a view of, None for the cluster.  WireError for names of other drivers."""
    if not name:
        return None
    try:
        uri = urlsplit(name)
        query = dict(parse_qsl(uri.query))
    except ValueError:
        raise errors.no_driver(name) from None
    if uri.scheme != "qemu" or uri.netloc:
        raise errors.no_driver(name)
    if uri.path != "/system":
        raise errors.wrong_path(uri.path)
    return query.get("node") or None


def supports_feature(
    session: Session, args: messages.RemoteConnectSupportsFeatureArgs
) -> messages.RemoteConnectSupportsFeatureRet:
    """Asking for keepalive starts it; before CONNECT_OPEN nothing else may be asked."""
    if args.feature == VirDrvFeature.PROGRAM_KEEPALIVE:
        session.start_keepalive()
    elif not session.opened:
        raise errors.not_open()
    return messages.RemoteConnectSupportsFeatureRet(supported=int(args.feature in FEATURES))


def set_identity(session: Session, args: messages.RemoteConnectSetIdentityArgs) -> None:
    """Who a proxy before us says that its client is: for the audit line only.  As libvirtd, which looks at names and
    types, and at no flag."""
    told = identity.checked(args.params)
    if told:
        session.who = f"{session.who.partition(FOR)[0]}{FOR}{told}"


def get_uri(session: Session, args: None) -> messages.RemoteConnectGetUriRet:
    """What a client that gave no URI works with."""
    return messages.RemoteConnectGetUriRet(
        uri=CANONICAL if session.view is None else f"{CANONICAL}?node={session.view}"
    )


def is_secure(session: Session, args: None) -> messages.RemoteConnectIsSecureRet:
    """The way to the nodes is (CURVE, or a socket on this machine); clients judge their own transport."""
    return messages.RemoteConnectIsSecureRet(secure=1)


def register_close_callback(session: Session, args: None) -> None:
    """Tell this client when the connection behind us breaks: in a node's view, that to the node."""
    session.wants_close_event = True


def unregister_close_callback(session: Session, args: None) -> None:
    """No more of it."""
    session.wants_close_event = False


def tell_closed_views(sessions: Iterable[Session]) -> None:
    """Send the connection-closed event to views whose node is out of reach, once."""
    for session in list(sessions):
        if session.view is None or not session.wants_close_event:
            continue
        node = session.cluster.nodes.get(session.view)
        if node is None or node.link is Link.LOST:
            session.wants_close_event = False
            reason = VirConnectCloseReason.KEEPALIVE if node is not None else VirConnectCloseReason.EOF
            session.send_event(CLOSED.program_id, CLOSED.number, INT.pack(reason))
