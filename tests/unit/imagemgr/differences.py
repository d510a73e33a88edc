"""Where we say otherwise than libvirt 9.0 of pools and volumes, and why.  Knows nothing of imagemgr's insides."""

from __future__ import annotations

POOLS: dict[str, int] = {"doctype": 27, "entity": 27}
"""What it is -> our code.  Document types and entities are refused in any document."""

POOLS_SHOWN = frozenset(
    {
        "rbd rbd options",  # the machine that filled in the table has no backend for rbd, which would read them
        "owner '2147483648'",  # libvirt writes it as a negative number, which it would not read again
        "owner '4294967294'",
        "adapter name escapes",  # libvirt writes it as no XML
    }
)
"""Pools that libvirt takes too, but writes otherwise."""

VOLUMES: dict[str, int] = {
    "dir: doctype": 27,
    # The pool of libvirt's test driver has 100 GiB, a document has no such bound.
    "dir: capacity '9223372036854775807'": 0,
    "dir: capacity 7 EiB": 0,
    "dir: capacity 9 EB": 0,
    "dir: 101 GiB": 0,
}
VOLUMES_SHOWN = frozenset(
    {
        "dir: owner '4294967294'",  # as of pools
        "dir: capacity '9223372036854775807'",  # not taken there, so not shown
        "dir: capacity 7 EiB",
        "dir: capacity 9 EB",
        "dir: 101 GiB",
    }
)
