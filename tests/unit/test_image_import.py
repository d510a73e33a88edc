"""`clusterhost image import`: sources that break, checksums that are wrong, formats that are not what is said; over a
real web server, a real socket of libvirt's protocol and a real admin socket."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clusterhost.cli.errors import Failure
from clusterhost.cli.image_source import BLOCK, HEAD, Url, opened
from clusterhost.cli.main import cli
from clusterhost.config import Settings
from clusterhost.frontend.admin import AdminServer
from tests.support.endpoint import Endpoint
from tests.support.webserver import Site, serving

QUICK = (0.01, 0.01, 0.01)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def read(source: Any) -> bytes:
    return b"".join(bytes(part) if isinstance(part, int) else part for part in source.blocks())


def qcow2(backing: bytes = b"", form: bytes = b"") -> bytes:
    """A header, with what it is an overlay of."""
    extension = (
        struct.pack(">II", 0xE2792ACA, len(form)) + form.ljust(-len(form) % 8 + len(form), b"\0")
        if form
        else b""
    )
    at = 112 + len(extension) + 8
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, at if backing else 0, len(backing), 16, 1 << 20, 0, 1, 0, 0, 0, 0, 0
    )
    head += struct.pack(">QQQII", 0, 0, 0, 4, 112) + bytes(8)
    return (head + extension + bytes(8) + backing).ljust(1 << 18, b"\0")


# -- sources


def test_a_url_that_breaks_is_taken_up_where_it_broke() -> None:
    data = noise(HEAD + 5 * BLOCK + 77)
    with serving(Site(data, breaks=[HEAD + BLOCK, 2 * BLOCK])) as site:
        source = opened(site.url, holes=False, pauses=QUICK)
        assert (source.size, source.name) == (len(data), "image.raw")
        assert read(source) == data
        source.close()
        assert site.asked == ["bytes=0-", f"bytes={HEAD + BLOCK}-", f"bytes={HEAD + 3 * BLOCK}-"]


def test_a_server_without_ranges_is_read_again_from_the_beginning() -> None:
    data = noise(HEAD + 3 * BLOCK)
    with serving(Site(data, breaks=[HEAD + BLOCK], ranges=False)) as site:
        source = opened(site.url, holes=False, pauses=QUICK)
        assert read(source) == data
        source.close()


def test_a_url_that_changes_meanwhile_is_refused() -> None:
    with serving(Site(noise(HEAD + 3 * BLOCK), breaks=[HEAD])) as site:
        source = opened(site.url, holes=False, pauses=QUICK)
        site.mark = '"two"'
        with pytest.raises(Failure, match="has changed while it was read"):
            read(source)
        source.close()


def test_a_url_that_gives_nothing_any_more_is_given_up() -> None:
    with serving(Site(noise(HEAD + BLOCK), breaks=[HEAD, 0, 0, 0, 0])) as site:
        source = opened(site.url, holes=False, pauses=QUICK)
        with pytest.raises(Failure, match=f"broke off after {HEAD} of {HEAD + BLOCK} bytes") as failed:
            read(source)
        assert failed.value.exit_code == 5
        source.close()


@pytest.mark.parametrize(("status", "code"), [(404, 3), (403, 1), (503, 5)])
def test_what_a_server_says_no_with_decides_the_exit_code(status: int, code: int) -> None:
    with serving(Site(b"x", status=status)) as site, pytest.raises(Failure, match=str(status)) as failed:
        opened(site.url, holes=False)
    assert failed.value.exit_code == code


def test_a_server_that_does_not_say_the_size_is_refused() -> None:
    with (
        serving(Site(b"x" * 99, ranges=False, sized=False)) as site,
        pytest.raises(Failure, match="does not say how large it is"),
    ):
        opened(site.url, holes=False)


def test_the_middle_of_a_url_can_be_looked_at() -> None:
    data = noise(HEAD + 4 * BLOCK)
    with serving(Site(data)) as site:
        source = opened(site.url, holes=False)
        assert isinstance(source, Url)
        assert source.at(HEAD + 5, 10) == data[HEAD + 5 : HEAD + 15]
        assert source.at(len(data) - 5, 10) == data[-5:]
        assert source.at(0, 4) == data[:4]
        source.close()


def test_holes_of_a_file_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.seek(64 * BLOCK)
        file.write(noise(BLOCK))
        file.truncate(100 * BLOCK)
    source = opened(str(path), holes=True)
    parts = list(source.blocks())
    source.close()
    assert parts[0] == 64 * BLOCK
    assert sum(part if isinstance(part, int) else len(part) for part in parts) == 100 * BLOCK


@pytest.mark.parametrize("given", ["ftp://example.org/x", "file://elsewhere/x", "/nowhere/x", "/dev/null"])
def test_other_sources_are_refused(given: str) -> None:
    with pytest.raises(Failure):
        opened(given, holes=False)


def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"bytes")
    source = opened(f"file://{tmp_path}/a%20b", holes=False)
    assert (source.name, read(source)) == ("a b", b"bytes")
    source.close()


# -- the command


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    made = Endpoint(tmp_path / "libvirt-sock")
    yield made
    made.close()


@pytest.fixture
def told() -> dict[str, Any]:
    """What the front end says of an image that is there."""
    return {"state": "whole", "reason": ""}


@pytest.fixture
def settings(tmp_path: Path, endpoint: Endpoint, told: dict[str, Any]) -> Iterator[Settings]:
    async def where(world: Any, args: dict[str, Any], progress: Any) -> object:
        names = sorted(endpoint.volumes)
        return {"socket": str(endpoint.path), "pool": args["pool"], "directory": "/images", "names": names}

    async def show(world: Any, args: dict[str, Any], progress: Any) -> object:
        return told

    found = Settings.model_validate({"cluster": {"state_dir": tmp_path}})
    loop = asyncio.new_event_loop()
    server = AdminServer(found, None, {"image.endpoint": where, "image.show": show})
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield found
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(settings: Settings, *words: str) -> Result:
    return CliRunner().invoke(
        cli, ["--socket", str(settings.cluster.admin_socket), "image", "import", *words]
    )


def test_a_file_becomes_a_volume_and_its_zeros_holes(
    settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    data = noise(3 * BLOCK - 5000) + bytes(20 * BLOCK + 5000) + noise(1000)
    (tmp_path / "disk.raw").write_bytes(data)
    answer = run(settings, str(tmp_path / "disk.raw"), "--json")
    assert answer.exit_code == 0, answer.output
    assert endpoint.volumes["disk.raw"] == data
    assert endpoint.whole == {"disk.raw"}
    assert endpoint.holes["disk.raw"] == 20 * BLOCK + 4096
    said = json.loads(answer.stdout)
    assert (said["format"], said["size_bytes"], said["pool"]) == ("raw", len(data), "default")


def test_a_url_becomes_a_volume_though_it_broke(settings: Settings, endpoint: Endpoint) -> None:
    data = noise(HEAD + 3 * BLOCK)
    digest = hashlib.sha256(data).hexdigest()
    with serving(Site(data, breaks=[HEAD + BLOCK])) as site:
        answer = run(settings, site.url, "--name", "web", "--checksum", f"sha256:{digest.upper()}")
    assert answer.exit_code == 0, answer.output
    assert endpoint.volumes["web"] == data


@pytest.mark.parametrize("kind", ["sha256", "sha512", "blake3"])
def test_with_a_wrong_checksum_nothing_is_left(
    kind: str, settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(noise(5 * BLOCK))
    wrong = "0" * (128 if kind == "sha512" else 64)
    answer = run(settings, str(tmp_path / "disk"), "--checksum", f"{kind}:{wrong}")
    assert answer.exit_code == 1
    assert f"not {wrong}; nothing of it is kept" in answer.output
    assert (endpoint.volumes, endpoint.whole) == ({}, set())


@pytest.mark.parametrize("given", ["md5:00", "sha256:12", "sha256", "blake3:" + "z" * 64])
def test_a_checksum_that_is_none_is_refused(given: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    assert run(settings, str(tmp_path / "disk"), "--checksum", given).exit_code == 2


def test_what_the_endpoint_says_when_an_upload_fails_is_told(
    settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.breaks = 2 * BLOCK
    (tmp_path / "disk").write_bytes(noise(50 * BLOCK))
    answer = run(settings, str(tmp_path / "disk"))
    assert answer.exit_code == 1
    assert "no space left on node n2" in answer.output
    assert endpoint.volumes == {}


def test_a_name_that_is_taken_is_refused_and_what_has_it_left_alone(
    settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.volumes["disk"] = bytearray(b"older")
    (tmp_path / "disk").write_bytes(b"newer")
    answer = run(settings, str(tmp_path / "disk"))
    assert answer.exit_code == 1
    assert "exists already" in answer.output
    assert endpoint.volumes["disk"] == b"older"


def test_what_an_earlier_import_left_incomplete_is_sent_again(
    settings: Settings, endpoint: Endpoint, told: dict[str, Any], tmp_path: Path
) -> None:
    endpoint.volumes["disk"] = bytearray(5)
    told.update(
        state="incomplete", reason="an upload of bytes 0 to 5 to node n1 was cut after 2 of 5 bytes: gone"
    )
    (tmp_path / "disk").write_bytes(b"newer")
    assert run(settings, str(tmp_path / "disk")).exit_code == 0
    assert endpoint.volumes["disk"] == b"newer"
    assert endpoint.whole == {"disk"}


@pytest.mark.parametrize(
    ("data", "words", "says"),
    [
        (b"", (), "is empty"),
        (b"raw", ("--format", "qcow2"), "it is said to be qcow2, but begins like raw"),
        (qcow2(), ("--format", "raw"), "nodes would take it for qcow2"),
        (qcow2(b"/etc/passwd", b"raw"), (), "leaves the pool's directory /images"),
        (qcow2(b"base", b"raw"), (), "which is no volume of pool default"),
        (qcow2(b"base"), (), "that is not guessed"),
        (qcow2(b"json:{}", b"raw"), (), "which is no volume"),
        (b"QFI\xfb\0\0\0\3", (), "ends at byte"),
        (b"x", ("--format", "strange"), "is not read here"),
    ],
)
def test_what_is_no_image_is_refused_before_anything_is_made(
    data: bytes, words: tuple[str, ...], says: str, settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(data)
    answer = run(settings, str(tmp_path / "disk"), *words)
    assert answer.exit_code != 0
    assert says in answer.output
    assert endpoint.calls == []


def test_an_overlay_of_a_volume_that_is_there_comes_in(
    settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.volumes["base"] = bytearray(1)
    (tmp_path / "top").write_bytes(qcow2(b"base", b"raw"))
    answer = run(settings, str(tmp_path / "top"))
    assert answer.exit_code == 0, answer.output
    assert "top is in pool default: qcow2" in answer.output


@pytest.mark.parametrize("name", [".hidden", "a/b", "x" * 256])
def test_a_name_that_no_volume_has_is_refused(
    name: str, settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    answer = run(settings, str(tmp_path / "disk"), "--name", name)
    assert answer.exit_code == 2
    assert endpoint.calls == []


def test_without_an_endpoint_the_socket_is_named(
    settings: Settings, endpoint: Endpoint, tmp_path: Path
) -> None:
    os.rename(endpoint.path, tmp_path / "elsewhere")
    (tmp_path / "disk").write_bytes(b"x")
    answer = run(settings, str(tmp_path / "disk"))
    assert answer.exit_code == 4
    assert str(endpoint.path) in answer.output
