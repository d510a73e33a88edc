"""Backing chains: real ones as qemu-img makes them, and every way in which one is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr.chains import Chain, Kind, chain
from imagemgr.errors import ConfigUnsupported, FormatDiffers, HeaderDamaged, PathRefused
from imagemgr.formats import Backing, Header, View, check
from imagemgr.names import inside

qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def image(name: str | None = None, form: str = "qcow2", *, said: str = "qcow2", **more: object) -> Header:
    """Of a format, with a backing file of that name and format."""
    backing = Backing(name, said) if name is not None else None
    return Header(form, 1 << 20, backing=backing, **more)  # type: ignore[arg-type]


def seen(
    files: Mapping[str, Header], path: str = "/p/top", *, form: str = "qcow2", **options: object
) -> Chain:
    """The chain among these files."""

    def look(path: str, declared: str) -> Header:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        if declared != files[path].format:
            raise FormatDiffers(f"it is said to be {declared}, but begins like {files[path].format}")
        return files[path]

    return chain(path, form, look, **options)  # type: ignore[arg-type]


def kinds(found: Chain) -> list[Kind]:
    """Of its problems."""
    return [problem.kind for problem in found.problems]


def test_a_chain_is_followed_to_its_base():
    files = {
        "/p/top": image("mid"),
        "/p/mid": image("/p/base/b.raw", said="raw"),
        "/p/base/b.raw": image(form="raw"),
    }
    found = seen(files, directory="/p")
    assert found.paths == ("/p/top", "/p/mid", "/p/base/b.raw")
    assert found.problems == ()


def test_a_relative_name_is_one_beside_the_image_that_says_it():
    files = {
        "/p/top": image("base/mid"),
        "/p/base/mid": image("../b"),
        "/p/b": image(),
    }
    assert seen(files, directory="/p").paths == ("/p/top", "/p/base/mid", "/p/b")


@pytest.mark.parametrize("name", ["../q/b", "/etc/shadow", "/p", "/p/../q", "a/../../b", "/pp/b", "a\nb"])
def test_a_backing_file_outside_of_the_directory_is_not_looked_at(name: str):
    found = seen({"/p/top": image(name)}, directory="/p")
    assert (kinds(found), found.paths) == ([Kind.LEAVES], ("/p/top",))


@pytest.mark.parametrize(
    "name",
    [
        "json:{}",
        'json:{"driver":"nbd","server":{"type":"inet","host":"h","port":"1"}}',
        "nbd://host/export",
        "nbd:unix:/run/x",
        "https://host/b.qcow2",
        "rbd:pool/image",
        "file:/p/b",
        "fat:/etc",
        ":x",
    ],
)
def test_a_backing_file_that_is_no_path_is_refused(name: str):
    found = seen({"/p/top": image(name)})
    assert (kinds(found), found.paths) == ([Kind.REMOTE], ("/p/top",))


def test_a_colon_after_a_slash_is_one_of_a_path():
    assert seen({"/p/top": image("./a:b"), "/p/a:b": image()}).problems == ()


def test_a_missing_backing_format_is_not_guessed():
    found = seen({"/p/top": image("b", said=""), "/p/b": image()})
    assert (kinds(found), found.paths) == ([Kind.UNSAID], ("/p/top",))
    assert "not guessed" in found.problems[0].text


@pytest.mark.parametrize("said", ["host_device", "file", "QCOW2", "qcow2 "])
def test_a_backing_format_that_is_not_known_is_refused(said: str):
    assert kinds(seen({"/p/top": image("b", said=said), "/p/b": image()})) == [Kind.UNKNOWN]


def test_a_file_that_is_not_what_the_image_above_says_is_told_by_its_path():
    found = seen({"/p/top": image("b", said="vmdk"), "/p/b": image()})
    (problem,) = found.problems
    assert (problem.kind, problem.path) == (Kind.DIFFERS, "/p/b")
    assert problem.text == "it is said to be vmdk, but begins like qcow2"


@pytest.mark.parametrize("name", ["top", "/p/top", "./x/../top", "//p/top"])
def test_an_image_that_is_its_own_backing_file_is_a_cycle(name: str):
    assert kinds(seen({"/p/top": image(name)})) == [Kind.CYCLE]


def test_a_longer_cycle_says_how_long_it_is():
    found = seen({"/p/top": image("a"), "/p/a": image("b"), "/p/b": image("a")})
    (problem,) = found.problems
    assert (problem.kind, problem.path) == (Kind.CYCLE, "/p/a")
    assert "2 images further up" in problem.text


@pytest.mark.parametrize(("count", "problems"), [(199, []), (200, []), (201, [Kind.DEEP])])
def test_a_chain_has_at_most_200_images(count: int, problems: list[Kind]):
    files = {f"/p/{number}": image(str(number + 1)) for number in range(count - 1)}
    files[f"/p/{count - 1}"] = image()
    found = seen(files, "/p/0")
    assert (kinds(found), len(found.links)) == (problems, min(count, 200))


def test_a_missing_file_and_a_damaged_one_are_told_apart():
    assert kinds(seen({"/p/top": image("b")})) == [Kind.UNREADABLE]
    for error, kind in ((HeaderDamaged("x"), Kind.DAMAGED), (ConfigUnsupported("y"), Kind.UNKNOWN)):

        def look(path: str, declared: str, error: Exception = error) -> Header:
            raise error

        assert kinds(chain("/p/top", "qcow2", look)) == [kind]


def test_data_in_other_files_and_doubts_are_told_and_the_chain_goes_on():
    files = {
        "/p/top": image("b", parts=("data.raw", ""), doubts=("it is marked corrupt",)),
        "/p/b": image(),
    }
    found = seen(files)
    assert kinds(found) == [Kind.UNUSABLE, Kind.PARTS, Kind.PARTS]
    assert found.paths == ("/p/top", "/p/b")
    assert "'data.raw'" in found.problems[1].text


def test_the_path_of_the_image_itself_must_be_one():
    with pytest.raises(PathRefused, match="not absolute"):
        seen({}, "top")


NAMES = st.sampled_from(["a", "b", "c", "../a", "x/a", "/p/b", "/q/a", "../../p/c", "nbd://x", "", "json:{}"])
FORMS = st.sampled_from(["qcow2", "raw", "", "vmdk"])


@given(st.dictionaries(st.sampled_from(["/p/a", "/p/b", "/p/c", "/p/x/a", "/q/a"]), st.tuples(NAMES, FORMS)))
def test_whatever_images_say_a_chain_ends_and_stays_where_it_is(said: dict[str, tuple[str, str]]):
    files = {path: image(name, said=form) for path, (name, form) in said.items()}
    found = seen(files, "/p/a", directory="/p")
    assert len(set(found.paths)) == len(found.paths) <= len(files)
    assert all(inside("/p", path) for path in found.paths)
    last = found.links[-1].header.backing if found.links else None
    assert found.problems or last is None, "it ended without a base and without a word"


def look(path: str, declared: str) -> Header:
    """At a real file."""
    data = Path(path).read_bytes()
    return check(declared, View.of(data))


def qemu_img(*words: str) -> str:
    """It has to succeed."""
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


@qemu
def test_a_chain_is_the_one_that_qemu_img_sees(tmp_path: Path):
    base, mid, top = (str(tmp_path / name) for name in ("base.vmdk", "mid.qcow2", "top.qcow2"))
    qemu_img("create", "-q", "-f", "vmdk", base, "8M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.vmdk", "-F", "vmdk", mid)
    qemu_img("create", "-q", "-f", "qcow2", "-b", mid, "-F", "qcow2", top, "16M")
    found = chain(top, "qcow2", look, str(tmp_path))
    told = json.loads(qemu_img("info", "--output", "json", "--backing-chain", top))
    assert [link.path for link in found.links] == [one["filename"] for one in told]
    assert [link.header.format for link in found.links] == [one["format"] for one in told]
    assert [link.header.capacity for link in found.links] == [one["virtual-size"] for one in told]
    assert found.problems == ()


@qemu
def test_a_cycle_on_disk_ends(tmp_path: Path):
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    qemu_img("create", "-q", "-f", "qcow2", one, "8M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "one", "-F", "qcow2", other)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "other", "-F", "qcow2", one)
    assert kinds(chain(one, "qcow2", look)) == [Kind.CYCLE]


@qemu
def test_a_header_in_a_raw_disk_leads_nowhere(tmp_path: Path):
    """A guest writes the header of a qcow2 with the host's secrets as backing file into its raw disk."""
    disk = str(tmp_path / "disk")
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", disk, "8M")
    found = chain(disk, "raw", look, str(tmp_path))
    assert found.paths == (disk,)
    assert found.problems == ()
    assert found.links[0].header.capacity == Path(disk).stat().st_size
