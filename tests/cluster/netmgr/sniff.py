"""Prints every frame that passes a link, as a line of JSON.  `python -m tests.cluster.netmgr.sniff LINK`."""

from __future__ import annotations

import json
import socket
import sys

ETH_P_ALL = 3
KINDS = {0x0806: "arp", 0x0800: "ip", 0x86DD: "ip6"}


def facts(frame: bytes) -> dict[str, object]:
    """What tests ask of a frame."""
    kind = KINDS.get(int.from_bytes(frame[12:14]), frame[12:14].hex())
    found: dict[str, object] = {"to": frame[:6].hex(":"), "from": frame[6:12].hex(":"), "kind": kind}
    if kind == "arp":
        found["arp"] = [socket.inet_ntoa(frame[28:32]), socket.inet_ntoa(frame[38:42])]
    elif kind == "ip":
        found["ip"] = [socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])]
        header = (frame[14] & 15) * 4
        if frame[23] == 17:
            found["udp"] = [int.from_bytes(frame[14 + header + n : 16 + header + n]) for n in (0, 2)]
    elif kind == "ip6":
        found["ip"] = [socket.inet_ntop(socket.AF_INET6, frame[at : at + 16]) for at in (22, 38)]
        if frame[20] == 17:
            found["udp"] = [int.from_bytes(frame[54 + n : 56 + n]) for n in (0, 2)]
        elif frame[20] == 58:
            found["icmp6"] = frame[54]
    return found


def main(link: str) -> None:
    """Until it is ended."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as listening:
        listening.bind((link, 0))
        print(json.dumps("listening"), flush=True)
        while True:
            print(json.dumps(facts(listening.recv(65536))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
