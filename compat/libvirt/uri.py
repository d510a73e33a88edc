"""Connection URIs as libvirt reads them, and the name that a client sends to the server.  Pure.

driver[+transport]://[user@][host][:port]/[path][?parameters][#fragment]
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

CLIENT_PARAMETERS = frozenset(
    [
        "name",
        "command",
        "socket",
        "mode",
        "auth",
        "sshauth",
        "netcat",
        "keyfile",
        "pkipath",
        "known_hosts",
        "known_hosts_verify",
        "tls_priority",
        "no_verify",
        "no_sanity",
        "no_tty",
        "proxy",
    ]
)
"""Parameters that the client itself uses.  All others travel to the server in the name it opens."""

UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
PATH_SAFE = UNRESERVED | frozenset("/!*'();:@&=+$,")

_FORM = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9.+-]*):"
    r"(?://(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.S,
)
_AUTHORITY = re.compile(
    r"(?:(?P<user>[^@]*)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]@]*)(?::(?P<port>[0-9]*))?"
)


class UriError(ValueError):
    """The text is not a URI that libvirt would take."""


@dataclass(frozen=True, slots=True)
class Uri:
    """A connection URI, its parts decoded.  `query` keeps order and repeated names; port 0 is the default."""

    driver: str
    transport: str = ""
    user: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()
    fragment: str = ""

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first parameter of that name."""
        return next((value for key, value in self.query if key == name), default)

    def with_parameter(self, name: str, value: str | None) -> Uri:
        """Return the URI with that parameter set (last) or, for None, removed."""
        kept = tuple(pair for pair in self.query if pair[0] != name)
        return replace(self, query=kept if value is None else (*kept, (name, value)))

    def __str__(self) -> str:
        return format_uri(self)


def quote(text: str, safe: frozenset[str] = UNRESERVED) -> str:
    """Percent-encode as libvirt does: utf-8, two upper-case digits, all but the unreserved."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(char if (char := chr(byte)) in safe else f"%{byte:02X}" for byte in data)


def _decode(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def parse_uri(text: str) -> Uri:
    """Read a URI.  UriError with what was found and what was allowed."""
    found = _FORM.fullmatch(text)
    if found is None or "\0" in text:
        raise UriError(f"{text!r} is not a URI, driver:///path was expected")
    authority = _AUTHORITY.fullmatch(found["authority"] or "")
    if authority is None:
        raise UriError(f"{found['authority']!r} is not [user@]host[:port]")
    port = int(authority["port"] or 0) if len(authority["port"] or "") <= 5 else 65536
    if port > 65535:
        raise UriError(f"port {authority['port']}, 65535 at most")
    driver, _, transport = found["scheme"].partition("+")
    return Uri(
        driver=driver,
        transport=transport,
        user=_decode(authority["user"] or ""),
        host=_decode(authority["host"]).strip("[]"),
        port=port,
        path=_decode(found["path"]),
        query=parse_query(found["query"] or ""),
        fragment=_decode(found["fragment"] or ""),
    )


def parse_query(text: str) -> tuple[tuple[str, str], ...]:
    """Read parameters, '&' or ';' between them: no '=' is an empty value, an empty name is dropped."""
    pairs = []
    for part in re.split("[&;]", text):
        name, _, value = part.partition("=")
        if name:
            pairs.append((_decode(name), _decode(value)))
    return tuple(pairs)


def format_query(query: tuple[tuple[str, str], ...]) -> str:
    """Write parameters as libvirt does."""
    return "&".join(f"{quote(name)}={quote(value)}" for name, value in query)


def format_uri(uri: Uri) -> str:
    """Write a URI; parse_uri() of it gives the same parts."""
    scheme = f"{uri.driver}+{uri.transport}" if uri.transport else uri.driver
    user = f"{quote(uri.user)}@" if uri.user else ""
    host = f"[{uri.host}]" if ":" in uri.host else quote(uri.host)
    port = f":{uri.port}" if uri.port else ""
    query = f"?{format_query(uri.query)}" if uri.query else ""
    fragment = f"#{quote(uri.fragment)}" if uri.fragment else ""
    if uri.path and not uri.path.startswith("/") and not user + host + port:
        return f"{scheme}:{quote(uri.path, PATH_SAFE)}{query}{fragment}"
    return f"{scheme}://{user}{host}{port}{quote(uri.path, PATH_SAFE)}{query}{fragment}"


def remote_name(uri: Uri) -> str:
    """Return the name that a stock client sends in CONNECT_OPEN for this URI.

    The parameter `name` if there is one; empty for driver "remote", which lets the server choose; else the
    URI without transport, user, host, port and the parameters that the client uses itself.
    """
    given = [value for key, value in uri.query if key.lower() == "name"]
    if given:
        return given[-1]
    if uri.driver == "remote":
        return ""
    left = tuple(pair for pair in uri.query if pair[0].lower() not in CLIENT_PARAMETERS)
    return format_uri(Uri(driver=uri.driver, path=uri.path, query=left, fragment=uri.fragment))
