"""Names and paths of volumes: what is refused, and that nothing leaves its pool."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr import names
from imagemgr.errors import NameRefused, PathRefused
from imagemgr.model import Kind, Pool, PoolTarget, PoolType

PARTS = st.lists(st.sampled_from(["..", ".", "", "a", "b", "images", "...", ".a"]), max_size=8)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "has no name"),
        ("a/b", "cannot contain '/'"),
        ("/", "cannot contain '/'"),
        ("../a", "cannot contain '/'"),
        (".", "start with a dot"),
        ("..", "start with a dot"),
        (".hidden", "start with a dot"),
        (names.PRIVATE, "start with a dot"),
        ("a\nb", "control characters"),
        ("a\0b", "control characters"),
        ("a\x7f", "control characters"),
        ("x" * 256, "256 bytes, 255 are allowed"),
        ("ä" * 128, "256 bytes, 255 are allowed"),
    ],
)
def test_a_name_that_no_volume_can_have_is_refused_with_the_reason(name: str, words: str):
    with pytest.raises(NameRefused, match=words):
        names.check_name(name)
    assert not names.is_volume(name)


@pytest.mark.parametrize("name", ["a", "a b", "disk.qcow2", "a@n2", "ä€", "x" * 255, "-", "a.", "a..b", " "])
def test_usual_and_odd_names_are_taken(name: str):
    names.check_name(name)
    path = names.path_of("/p/", name)
    assert path == f"/p/{name}"
    assert names.name_in("/p", path) == name


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/p/a", "a"),
        ("/p//a", "a"),
        ("//p/./a", "a"),
        ("/p/b/../a", "a"),
        ("/p", ""),
        ("/p/", ""),
        ("/p/a/..", ""),
        ("/p/b/a", "b/a"),
        ("/pa", None),
        ("/p/../q/a", None),
        ("/p/../../p/a", "a"),
        ("/q/p/a", None),
    ],
)
def test_a_path_is_inside_a_directory_by_its_parts(path: str, inside: str | None):
    assert names.inside("/p", path) == inside


def test_a_path_that_is_none_is_refused():
    for path in ("a", "", "./a", "/p/a\0b", "/p/a\nb"):
        with pytest.raises(PathRefused):
            names.normal(path)
        assert names.name_in("/p", path) is None


@pytest.mark.parametrize("reference", ["/etc/passwd", "../a", "b/../../a", "/p/../q", "", ".", "/p", "a/\0"])
def test_a_backing_file_outside_its_pool_is_refused(reference: str):
    with pytest.raises(PathRefused):
        names.resolved("/p", reference)


@pytest.mark.parametrize("reference", ["base", "./base", "/p/base", "b/../base", "../p/base"])
def test_a_backing_file_in_its_pool_is_found(reference: str):
    assert names.resolved("/p", reference) == "/p/base"


@given(PARTS, PARTS)
def test_inside_says_what_the_path_library_says(above: list[str], below: list[str]):
    directory, path = "/" + "/".join(above), "/" + "/".join(below)
    clean = posixpath.normpath("/" + directory.lstrip("/"))
    found = posixpath.normpath("/" + path.lstrip("/"))
    assert names.normal(path) == found
    rest = posixpath.relpath(found, clean)
    expected = None if rest == ".." or rest.startswith("../") else "" if rest == "." else rest
    assert names.inside(directory, path) == expected


@given(NAMES, PARTS)
def test_a_name_that_is_taken_never_leaves_its_directory(name: str, above: list[str]):
    directory = "/" + "/".join(above)
    if names.is_volume(name):
        assert names.name_in(directory, names.path_of(directory, name)) == name
    else:
        with pytest.raises(NameRefused):
            names.path_of(directory, name)


@given(PARTS, st.sampled_from(["", "/", "//", "///"]), st.sampled_from(["", "/", "//"]))
def test_a_sanitized_path_stays_so(parts: list[str], start: str, end: str):
    path = start + "/".join(parts) + end
    once = names.sanitized(path)
    assert names.sanitized(once) == once
    assert "//" not in once[1:]
    if path.startswith("/"):
        assert names.normal(once) == names.normal(path)


@given(NAMES, st.from_regex(r"[a-z0-9.-]{1,10}", fullmatch=True))
def test_a_name_at_a_node_comes_apart_again(name: str, node: str):
    shown = names.at_node(name, node)
    assert names.apart(shown) == ((name, node) if name else (shown, ""))


def test_names_without_a_node_stay_whole():
    assert [names.apart(name) for name in ("a", "@n", "a@", "@")] == [
        ("a", ""),
        ("@n", ""),
        ("a@", ""),
        ("@", ""),
    ]


def test_a_path_belongs_to_the_innermost_pool_that_has_a_volume_there():
    outer = Pool(PoolType.DIR, "outer", target=PoolTarget("/p"))
    inner = Pool(PoolType.DIR, "inner", target=PoolTarget("/p/q/"))
    nowhere = Pool(PoolType.RBD, "nowhere")
    pools = [outer, nowhere, inner]
    assert names.pool_of("/p/a", pools) == (outer, "a")
    assert names.pool_of("/p/q/a", pools) == (inner, "a")
    assert names.pool_of("/p/q", pools) == (outer, "q")
    assert names.pool_of("/p/q/r/a", pools) is None
    assert names.pool_of("/q/a", pools) is None


def test_every_type_of_pool_is_shared_or_local():
    shared = {kind for kind in PoolType if kind.kind is Kind.SHARED}
    assert shared == {
        PoolType.NETFS, PoolType.ISCSI, PoolType.ISCSI_DIRECT, PoolType.RBD, PoolType.SHEEPDOG, PoolType.GLUSTER,
        PoolType.VSTORAGE,
    }  # fmt: skip
    assert {kind for kind in PoolType if not kind.has_target} == {
        PoolType.ISCSI_DIRECT,
        PoolType.RBD,
        PoolType.SHEEPDOG,
        PoolType.GLUSTER,
    }
