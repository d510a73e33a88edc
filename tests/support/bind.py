"""BIND 9 in the foreground with zones of its own, and what it holds.  Knows no product but the mark of its names."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from netmgr.names.update import Key, Server, read_key

MISSING = [
    name
    for name in ("named", "dig", "nsupdate", "tsig-keygen")
    if not shutil.which(name, path="/usr/sbin:/usr/bin")
]
needs_bind = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (bind9, bind9-dnsutils)"
)

FORWARD, REVERSE, REVERSE6 = "cluster.test.", "122.168.192.in-addr.arpa.", "0.0.d.f.ip6.arpa."
SECRET = re.compile(r'secret "([^"]+)"')
ACL = 'allow-update { key "ours"; }; allow-transfer { key "ours"; };'

CONF = """
{keys}
options {{
    directory "{directory}"; pid-file none; lock-file none; session-keyfile "{directory}/session.key";
    listen-on port {port} {{ {address}; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; notify no; empty-zones-enable no;
}};
controls {{ }};
{zones}
"""
ZONE_CONF = """zone "{zone}" {{ type primary; file "{zone}db"; {acl} }};
"""
ZONE = """$TTL 300
@ SOA ns1.cluster.test. admin.cluster.test. 1 3600 600 86400 60
@ NS ns1.cluster.test.
{more}
"""
FOREIGN = "ns1 A 192.0.2.53\nwww A 192.0.2.80\nmail MX 10 ns1\n"
FOREIGN_NAMES = {"ns1.cluster.test.", "www.cluster.test.", "mail.cluster.test."}


def keygen(name: str, algorithm: str = "hmac-sha256") -> str:
    done = subprocess.run(
        ["/usr/sbin/tsig-keygen", "-a", algorithm, name], check=True, capture_output=True, text=True
    )
    return done.stdout


class Bind:
    """On a port of `address`; inside: words in front of each command, to be in another network namespace."""

    def __init__(
        self,
        directory: Path,
        acl: str = ACL,
        *,
        zones: Sequence[str] = (FORWARD, REVERSE, REVERSE6),
        inside: Sequence[str] = (),
        address: str = "127.0.0.1",
    ) -> None:
        self.address = address
        self.directory = directory
        self.zones = zones
        self._inside = inside
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        keys = keygen("ours") + keygen("long", "hmac-sha512") + keygen("powerless")
        self.key_file = directory / "ours.key"
        self.key_file.write_text(keys.split("key ")[1].join(("key ", "")))
        (directory / "all.keys").write_text(keys)
        self.secrets = dict(zip(("ours", "long", "powerless"), SECRET.findall(keys), strict=True))
        blocks = "".join(ZONE_CONF.format(zone=zone, acl=acl) for zone in zones)
        conf = CONF.format(keys=keys, directory=directory, port=self.port, address=address, zones=blocks)
        (directory / "named.conf").write_text(conf)
        for zone in self.zones:
            (directory / f"{zone}db").write_text(ZONE.format(more=FOREIGN if zone == FORWARD else ""))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *self._inside,
            "/usr/sbin/named",
            "-g",
            "-n",
            "1",
            "-4",
            "-c",
            str(self.directory / "named.conf"),
        ]
        log = (self.directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.directory / "log").read_text()[-3000:])
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def _answers(self) -> bool:
        return "status: NOERROR" in self.dig("SOA", FORWARD)

    def dig(self, *arguments: str) -> str:
        command = [
            *self._inside,
            "dig",
            f"@{self.address}",
            "-p",
            str(self.port),
            "+tcp",
            "+time=2",
            "+tries=1",
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def server(self, key: Key | None = None) -> Server:
        return Server(self.address, key or read_key(self.key_file), self.port, timeout=2.0)

    def by_hand(self, *lines: str) -> None:
        """As an administrator would, with nsupdate."""
        text = "\n".join((f"server {self.address} {self.port}", *lines, "send\n"))
        subprocess.run(
            [*self._inside, "nsupdate", "-k", str(self.key_file)],
            input=text,
            text=True,
            check=True,
            timeout=20,
        )

    def holds(self) -> dict[str, set[str]]:
        """Names and their records as dig transfers them, the zones' own left out."""
        found: dict[str, set[str]] = {}
        for zone in self.zones:
            for line in self.dig("AXFR", zone, "-k", str(self.key_file), "+noall", "+answer").splitlines():
                words = line.split(maxsplit=4)
                if len(words) == 5 and words[0] not in self.zones and words[3] != "TSIG":
                    found.setdefault(words[0], set()).add(f"{words[3]} {words[4]}")
        return found

    def ours(self, owner: str) -> dict[str, set[str]]:
        """Those with our mark, without it; all others must be as they were put there."""
        found = self.holds()
        marks = {f'TXT "clusterhost-owner={owner}"', f'TXT "clusterhost-owner={owner} texts"'}
        assert {name for name, records in found.items() if not marks & records} >= FOREIGN_NAMES
        return {name: records - marks for name, records in found.items() if marks & records}
