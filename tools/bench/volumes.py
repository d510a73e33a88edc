"""Volumes: their bytes in and out, a list of very many, and a start on a linked clone of what is there already."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import libvirt

from tools.bench.measure import Limit, Result
from tools.bench.scene import Scene, SceneFailed

STREAMED, LISTED, CLONED = 0.7, 1.0, 1.0
MIB = 1024 * 1024
SIZE = 256 * MIB
FILES = 10_000
ROUNDS = 5
PAUSE = 2.2
"""Seconds after which the endpoint asks nodes again what they list: a list of a user who is not in a hurry."""
NAME = "bench-volumes"
HOME = f"/var/lib/libvirt/{NAME}"
POOL = f"<pool type='dir'><name>{NAME}</name><target><path>{HOME}</path></target></pool>"
VOLUME = "<volume><name>{}</name><capacity>{}</capacity><target><format type='{}'/></target></volume>"

UPLOAD, DOWNLOAD = "vol-upload of 256 MiB", "vol-download of 256 MiB"
LIST = f"vol-list of {FILES:,}"
START = "linked clone and start of an image that is there, over a plain start"


def all_cases() -> Iterator[tuple[str, str, Callable[[Scene], Result | Limit]]]:
    """Name, group, and what measures."""
    yield UPLOAD, "volume", lambda scene: _streamed(scene, UPLOAD, "vol-upload")
    yield DOWNLOAD, "volume", lambda scene: _streamed(scene, DOWNLOAD, "vol-download")
    yield LIST, "volume", listed
    yield START, "volume", started


def listed(scene: Scene) -> Result:
    """Seconds of `virsh vol-list` of files that the node's libvirtd knows already."""
    with _pool(scene):
        directory = scene.state / "nodes" / "n1" / "lib" / NAME
        for number in range(FILES):
            (directory / f"volume-{number:05}").touch()
        scene.direct.storagePoolLookupByName(NAME).refresh()
        scene.cluster.storagePoolLookupByName(NAME).refresh()
        taken: list[list[float]] = [[], []]
        for number in range(ROUNDS + 1):
            for side in ((0, 1), (1, 0))[number % 2]:
                time.sleep(PAUSE)
                began = time.monotonic()
                lines = _virsh(scene, side, "vol-list", NAME)
                taken[side].append(time.monotonic() - began)
                if lines.count("volume-") < FILES:
                    raise SceneFailed("the list is not whole")
        direct, cluster = (statistics.median(each[1:]) * 1000 for each in taken)
        return Result(LIST, "volume", "ms", direct, cluster, LISTED)


def started(scene: Scene) -> Limit:
    """Seconds of clone, define and start, less those of define and start on an image of its own."""
    with _pool(scene):
        _clusterhost(scene, "pool", "set", NAME, "--linked-clones")
        pool = scene.cluster.storagePoolLookupByName(NAME)
        base = pool.createXML(VOLUME.format("base", SIZE, "qcow2"))
        more = []
        for number in range(ROUNDS):
            own = pool.createXML(VOLUME.format(f"own-{number}", SIZE, "qcow2"))
            plain = _start(scene, own)
            began = time.monotonic()
            clone = pool.createXMLFrom(VOLUME.format(f"clone-{number}", SIZE, "qcow2"), base)
            cloned = time.monotonic() - began
            more.append(cloned + _start(scene, clone) - plain)
            for volume in (own, clone):
                volume.delete()
        return Limit(START, "volume", "s", statistics.median(more), CLONED)


def _start(scene: Scene, volume: libvirt.virStorageVol) -> float:
    xml = scene.xml("bench-clone", disk=Path(volume.path()))
    began = time.monotonic()
    domain = scene.cluster.defineXML(xml)
    try:
        domain.create()
        return time.monotonic() - began
    finally:
        if domain.isActive():
            domain.destroy()
        domain.undefine()


def _streamed(scene: Scene, case: str, command: str) -> Result:
    """Megabytes a second by virsh, from a file or into one."""
    with _pool(scene), tempfile.TemporaryDirectory(prefix="ch-bench-") as directory:
        file = Path(directory, "bytes")
        file.write_bytes(os.urandom(MIB) * (SIZE // MIB))
        for side, name in enumerate(("direct", "cluster")):
            scene.sides[side][1].storagePoolLookupByName(NAME).createXML(VOLUME.format(name, SIZE, "raw"))
            _virsh(scene, side, "vol-upload", name, str(file), NAME)
        rates: list[list[float]] = [[], []]
        for number in range(ROUNDS):
            for side in ((0, 1), (1, 0))[number % 2]:
                os.sync()
                began = time.monotonic()
                _virsh(scene, side, command, ("direct", "cluster")[side], str(file), NAME)
                rates[side].append(SIZE / 1e6 / (time.monotonic() - began))
        direct, cluster = (statistics.median(found) for found in rates)
        return Result(case, "volume", "MB/s", direct, cluster, STREAMED, True)


@contextmanager
def _pool(scene: Scene) -> Iterator[None]:
    """One on all nodes; nothing of it stays."""
    with ExitStack() as undo:
        pool = scene.cluster.storagePoolDefineXML(POOL)
        undo.callback(pool.undefine)
        pool.build()
        pool.create()
        undo.callback(pool.destroy)
        undo.callback(_empty, scene)
        yield


def _empty(scene: Scene) -> None:
    for home in (scene.state / "nodes").glob(f"*/lib/{NAME}"):
        for file in home.iterdir():
            if file.is_file():
                file.unlink()


def _virsh(scene: Scene, side: int, *command: str) -> str:
    told = subprocess.run(["virsh", "-c", scene.sides[side][0], *command], capture_output=True, text=True)
    if told.returncode:
        raise SceneFailed(told.stderr.strip())
    return told.stdout


def _clusterhost(scene: Scene, *command: str) -> None:
    config = scene.state / "front" / "clusterhost.toml"
    program = str(Path(sys.executable).with_name("clusterhost"))
    told = subprocess.run([program, *command, "--config", str(config)], capture_output=True, text=True)
    if told.returncode:
        raise SceneFailed(told.stderr.strip())
