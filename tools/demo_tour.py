"""Do the main job on a demo cluster before the user's eyes: stock virsh, one URI, three nodes.  Leaves it running."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pexpect

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clusterhost.demo import cluster, guest
from clusterhost.demo.layout import layout

GUESTS = tuple(f"web{number}" for number in range(1, 7))
SECONDS = 60.0
COUNT = re.compile(r"count (\d+)")


class TourFailed(Exception):
    """A step of the tour did not do what it shows."""


@dataclass(frozen=True)
class Tour:
    """The cluster's endpoint, and where its demo lies."""

    state: Path
    endpoint: str

    def view(self, node: str) -> str:
        """The endpoint's view of one node."""
        return f"{self.endpoint}{'&' if '?' in self.endpoint else '?'}node={node}"

    def virsh(self, *words: str, show: bool = True, uri: str = "") -> str:
        """Run virsh, shown as a user would type it; TourFailed."""
        shown = " ".join(f"'{word}'" if "?" in word else word for word in words).replace(self.endpoint, "EP")
        if show:
            print(f"\n$ virsh -c EP {shown}", flush=True)
        command = ["virsh", "-c", uri or self.endpoint, *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 2)
        if ended.returncode:
            raise TourFailed(f"virsh {shown}: {ended.stderr.strip()}")
        if show:
            print(ended.stdout.strip(), flush=True)
        return ended.stdout

    def command(self, *words: str) -> None:
        """Run the clusterhost command against this cluster, shown."""
        print(f"\n$ clusterhost {' '.join(words)}", flush=True)
        config = layout(self.state).front / "clusterhost.toml"
        subprocess.run([sys.executable, "-m", "clusterhost", "--config", str(config), *words], check=True)

    def where(self, name: str) -> str:
        """The node that runs a guest."""
        for fact in cluster.status(self.state):
            if name in self.virsh("list", "--name", show=False, uri=self.view(fact.name)).split():
                return fact.name
        raise TourFailed(f"{name} runs on no node")

    def counter(self, name: str, lines: int) -> list[int]:
        """The next lines of a guest's counter on its console, shown."""
        print(f"\n$ virsh -c EP console {name}", flush=True)
        console = pexpect.spawn(
            "virsh", ["-c", self.endpoint, "console", name], timeout=SECONDS, encoding="utf-8"
        )
        found = []
        try:
            for _ in range(lines):
                console.expect(COUNT)
                found.append(int(console.match.group(1)))
                print(console.match.group(0), flush=True)
            console.sendcontrol("]")
            console.expect(pexpect.EOF)
        except pexpect.ExceptionPexpect as error:
            raise TourFailed(
                f"the console of {name} shows no counter: {str(error).splitlines()[0]}"
            ) from error
        finally:
            console.close(force=True)
        return found


def main() -> int:
    """Run the tour; the endpoint is the last line."""
    parser = argparse.ArgumentParser(description="the main job on a demo cluster")
    parser.add_argument("--state", type=Path, default=Path(".demo"))
    parser.add_argument("--nodes", type=int, default=3)
    options = parser.parse_args()
    info = cluster.up(options.state, options.nodes, lambda line: None)
    if info.endpoint is None:
        print("demo: the demo has no front end", file=sys.stderr)
        return 1
    tour = Tour(info.state, info.endpoint)
    print(f"EP is {tour.endpoint}")
    try:
        _show(tour, info.guest)
    except (TourFailed, subprocess.SubprocessError, pexpect.ExceptionPexpect) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("\nThe cluster is left running; `make clean-demo` removes every trace of it.  Its URI:")
    print(tour.endpoint)
    return 0


def _show(tour: Tour, image: guest.Guest) -> None:
    tour.virsh("nodeinfo")
    tour.virsh("freecell", "--all")
    with tempfile.TemporaryFile("w+") as events:
        listener = subprocess.Popen(
            ["virsh", "-c", tour.endpoint, "event", "--all", "--loop"],
            stdout=events,
            stderr=subprocess.STDOUT,
        )
        try:
            time.sleep(1)
            _start(tour, image)
            _spread(tour)
            _move(tour, GUESTS[0])
        finally:
            listener.terminate()
            listener.wait()
        _events(events.fileno(), GUESTS[0])
    tour.command("domain", "list")


def _start(tour: Tour, image: guest.Guest) -> None:
    there = tour.virsh("list", "--all", "--name", show=False).split()
    with tempfile.TemporaryDirectory() as directory:
        for name in GUESTS:
            if name not in there:
                path = Path(directory) / f"{name}.xml"
                path.write_text(image.domain_xml(name, memory_mib=96))
                tour.virsh("define", str(path), show=name == GUESTS[0])
    running = tour.virsh("list", "--name", show=False).split()
    for name in GUESTS:
        if name not in running:
            tour.virsh("start", name, show=name in GUESTS[:2])
    tour.virsh("list", "--all")


def _spread(tour: Tour) -> None:
    print("\nEach node's own libvirtd, asked without us:")
    for fact in cluster.status(tour.state):
        names = tour.virsh("list", "--name", show=False, uri=fact.uri).split()
        print(f"  {fact.name}: {' '.join(names) or 'none'}")


def _move(tour: Tour, name: str) -> None:
    before = tour.counter(name, 3)
    source = tour.where(name)
    target = next(fact.name for fact in cluster.status(tour.state) if fact.name != source)
    print(f"\n{name} runs on {source}; move it to {target} while it counts:")
    number = tour.virsh("domid", name, show=False).strip()
    tour.virsh("migrate", "--live", "--verbose", name, tour.view(target))
    after = tour.counter(name, 3)
    if tour.where(name) != target:
        raise TourFailed(f"{name} did not arrive on {target}")
    if after[0] <= before[-1]:
        raise TourFailed(
            f"{name} counted {before[-1]} before the move and {after[0]} after it: it was restarted"
        )
    if tour.virsh("domid", name, show=False).strip() != number:
        raise TourFailed(f"the id of {name} changed with the move")
    print(f"{name} is on {target}, its id is still {number}, it counted on.")


def _events(descriptor: int, name: str) -> None:
    print(f"\nWhat `virsh event --all --loop` told meanwhile about {name}:")
    text = os.pread(descriptor, 1 << 20, 0).decode()
    for line in text.splitlines():
        if f"'{name}'" in line or f" {name}:" in line:
            print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
