"""Print how long a placement takes: p50 and p99 of one decision over many nodes.  A figure, not a test."""

from __future__ import annotations

import argparse
import random
import time

from placement import Ask, Offer, Policy, place
from placement.values import CpuModels

MIB = 1024
_NAMES = frozenset({"host-model", "EPYC", "Skylake-Server"})
MODELS = CpuModels("x86_64", _NAMES, _NAMES)
TARGET = 20.0
"""Milliseconds, p99 at 500 nodes."""


def offers(count: int, rng: random.Random) -> list[Offer]:
    """Nodes of three sizes with a random load, one in ten disabled."""
    found = []
    for number in range(count):
        memory = rng.choice((64, 256, 512)) * MIB * MIB
        found.append(
            Offer(
                node=f"n{number}",
                open=number % 10 != 9,
                why_not="disabled",
                memory_kib=memory,
                free_kib=int(memory * rng.random()),
                cpus=64,
                vcpus_granted=rng.randrange(900),
                arches=frozenset({"x86_64", "i686"}),
                machines=frozenset(f"pc-q35-{major}.{minor}" for major in range(2, 9) for minor in range(10)),
                domain_types=frozenset({"qemu", "kvm"}),
                emulators=frozenset({"/usr/bin/qemu-system-x86_64"}),
                cpu_models={"kvm": MODELS},
                running=rng.randrange(40),
                homes=rng.randrange(20),
            )
        )
    return found


def measure(nodes: int, decisions: int) -> list[float]:
    """Milliseconds of each decision, sorted."""
    rng = random.Random(1)
    nodes_offered = offers(nodes, rng)
    policies = (Policy("striping"), Policy("packing"))
    took = []
    for number in range(decisions):
        ask = Ask(
            name=f"web{number}",
            memory_kib=rng.choice((1, 4, 16, 64)) * MIB * MIB,
            vcpus=rng.choice((1, 4, 16)),
            arch="x86_64",
            machine="pc-q35-7.2",
            domain_type="kvm",
            cpu_model="host-model",
            emulator="/usr/bin/qemu-system-x86_64",
        )
        start = time.perf_counter()
        place(ask, nodes_offered, policies[number % 2])
        took.append((time.perf_counter() - start) * 1000)
    return sorted(took)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--decisions", type=int, default=1000)
    chosen = parser.parse_args()
    took = measure(chosen.nodes, chosen.decisions)
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    print(f"placement of one domain on {chosen.nodes} nodes, {chosen.decisions} decisions:")
    print(f"p50 {p50:.2f} ms   p99 {p99:.2f} ms   (target at 500 nodes: p99 <= {TARGET:g} ms)")


if __name__ == "__main__":
    main()
