"""TCP between running guests of two nodes: one fetches a file of the other's web server, over two links in turn."""

from __future__ import annotations

import re
import threading

import libvirt

from tools.bench.scene import SceneFailed

ROUNDS, FETCHES, MEBIBYTES = 6, 6, 20
SECONDS = 120
BOOT = "count 2"
"""What a guest's console says when its shell listens."""

_LINKS = (
    "killall udhcpc; n=0; for a in {addresses}; do ip addr flush dev eth$n; ip link set eth$n mtu {mtu} up;"
    " ip addr add $a/24 dev eth$n; n=$((n+1)); done"
)
_SERVE = "mkdir /www; dd if=/dev/zero of=/www/f bs=1M count={size} 2>/dev/null; httpd -p 80 -h /www"
_FETCH = (
    "for r in $(seq {rounds}); do for a in {addresses}; do s=$(cut -d' ' -f1 /proc/uptime);"
    " for i in $(seq {fetches}); do wget -q -O /dev/null http://$a/f || echo fail; done;"
    " echo took $a $s $(cut -d' ' -f1 /proc/uptime); done; done"
)
_TOOK = re.compile(r"took (\S+) ([0-9.]+) ([0-9.]+)")


def linked(guest: libvirt.virDomain, addresses: tuple[str, str], mtu: int) -> None:
    """Give its two links these addresses, by its shell, when it has booted."""
    told(guest, _LINKS.format(addresses=" ".join(addresses), mtu=mtu), BOOT)


def serves(guest: libvirt.virDomain) -> None:
    """It serves the file from now on."""
    told(guest, _SERVE.format(size=MEBIBYTES))


def rates(guest: libvirt.virDomain, addresses: tuple[str, str]) -> list[list[float]]:
    """Bytes a second at which it got the file from each of the addresses, by round.  SceneFailed."""
    said = told(guest, _FETCH.format(rounds=ROUNDS, fetches=FETCHES, addresses=" ".join(addresses)))
    if "fail" in said.replace("|| echo fail", ""):
        raise SceneFailed("the guests do not reach each other")
    found = [(address, float(end) - float(start)) for address, start, end in _TOOK.findall(said)]
    size = FETCHES * MEBIBYTES << 20
    return [[size / seconds for address, seconds in found if address == which] for which in addresses]


def told(guest: libvirt.virDomain, command: str, after: str = "") -> str:
    """Have its shell do it; what its console said meanwhile.  after: what is to be seen there before.  SceneFailed."""
    stream = guest.connect().newStream()
    guest.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    watchdog = threading.Timer(SECONDS, stream.abort)
    watchdog.start()
    try:
        _until(stream, after)
        stream.send(f"\n{command}; echo to''ld\n".encode())
        return _until(stream, "told")
    except libvirt.libvirtError as error:
        raise SceneFailed(f"the guest's shell does not answer: {error}") from error
    finally:
        watchdog.cancel()
        stream.abort()


def _until(stream: libvirt.virStream, wanted: str) -> str:
    seen = b""
    while wanted.encode() not in seen:
        seen += stream.recv(4096)
    return seen.decode(errors="replace")
