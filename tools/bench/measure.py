"""Take times and rates of two sides in turn, so that both meet the same machine.  Knows no libvirt."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Act = Callable[[], object]

ROUND_SECONDS = 0.04
ROUNDS = 15


@dataclass(frozen=True)
class Result:
    """One row.  direct and cluster are in `unit`; ratio is cluster / direct; target is what the ratio shall be:
    at most, or for rates (`more_is_better`) at least."""

    case: str
    group: str
    unit: str
    direct: float
    cluster: float
    target: float
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        return self.cluster / self.direct if self.direct else float("inf")

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.more_is_better else self.ratio <= self.target


@dataclass(frozen=True)
class Limit:
    """What is compared with nothing: a value in `unit` that shall be `target` at most."""

    case: str
    group: str
    unit: str
    value: float
    target: float

    @property
    def met(self) -> bool:
        return self.value <= self.target


@dataclass(frozen=True)
class Size:
    """Resident memory of one of our processes, in MB."""

    process: str
    mb: float
    target: float

    @property
    def met(self) -> bool:
        return self.mb <= self.target


def in_turn(
    direct: Act, cluster: Act, *, rounds: int = ROUNDS, seconds: float = ROUND_SECONDS
) -> tuple[float, float]:
    """Median microseconds of a call on either side; who begins changes with every round."""
    sides = (direct, cluster)
    calls = [_calls(side, seconds) for side in sides]
    taken: list[list[float]] = [[], []]
    for number in range(rounds):
        for side in ((0, 1), (1, 0))[number % 2]:
            taken[side].append(_time(sides[side], calls[side]))
    return statistics.median(taken[0]) * 1e6, statistics.median(taken[1]) * 1e6


def calls_per_second(acts: Sequence[Act], seconds: float) -> float:
    """Calls of all `acts`, each repeated in a thread of its own for that long, by second."""
    counts = [0] * len(acts)
    begin = threading.Barrier(len(acts) + 1)
    stop = threading.Event()

    def work(number: int) -> None:
        begin.wait()
        while not stop.is_set():
            acts[number]()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    begin.wait()
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    taken = time.perf_counter() - began
    for thread in threads:
        thread.join()
    return sum(counts) / taken


def _calls(act: Act, seconds: float) -> int:
    act()
    one = max(_time(act, 3), 1e-6)
    return max(1, int(seconds / one))


def _time(act: Act, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        act()
    return (time.perf_counter() - began) / calls
