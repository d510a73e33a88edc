"""Headers of images: compared with qemu-img for all formats that it makes, and damaged in every way."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr import formats
from imagemgr.errors import ConfigUnsupported, FormatDiffers, HeaderDamaged, ImageError
from imagemgr.formats import FORMATS, Backing, Header, View, check

MIB = 1024 * 1024
NAMES = sorted({*FORMATS, "raw"})
qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

SECRET = ("--object", "secret,id=s,data=abc")
LUKS = "key-secret=s,iter-time=10"
MADE = [
    ("qcow2", ""),
    ("qcow2", "compat=0.10"),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=2M,lazy_refcounts=on"),
    ("qcow2", "compression_type=zstd"),
    ("qcow2", "extended_l2=on,refcount_bits=64"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", f"encrypt.format=luks,encrypt.{LUKS.replace(',', ',encrypt.')}"),
    ("qcow2", "encrypt.format=aes,encrypt.key-secret=s"),
    ("qcow2", "data_file=FILE,data_file_raw=on"),
    ("qcow", ""),
    ("qed", ""),
    ("qed", "cluster_size=4096,table_size=16"),
    ("vmdk", ""),
    *(
        ("vmdk", f"subformat={kind}")
        for kind in ("monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized")
    ),
    ("vmdk", "compat6=on,zeroed_grain=on"),
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vpc", ""),
    ("vpc", "subformat=fixed"),
    ("vpc", "force_size=on"),
    ("vpc", "force_size=on,subformat=fixed"),
    ("vhdx", ""),
    ("vhdx", "subformat=fixed,block_size=1M"),
    ("parallels", ""),
    ("luks", LUKS),
    ("raw", ""),
]


def view(path: Path) -> View:
    """Of a file."""

    def read(offset: int, length: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    return View(path.stat().st_size, read)


def read_or_refused(form: str, data: bytes | View) -> Header | None:
    """What a file says, None where it is refused by an error of ours with a sentence; any other error is a failure."""
    try:
        return check(form, data if isinstance(data, View) else View.of(data))
    except ImageError as error:
        if not str(error):
            raise AssertionError("a refusal without a word") from error
        return None


def made(path: Path, form: str, options: str, size: str, *words: str) -> dict[str, object]:
    """An image by qemu-img, and what that says of it."""
    secret = SECRET if "key-secret" in options else ()
    more = ("-o", options.replace("FILE", str(path) + ".data")) if options else ()
    command = ["qemu-img", "create", "-q", *secret, "-f", form, *more, *words, str(path), size]
    for _ in range(20):
        done = subprocess.run(command, capture_output=True, text=True)
        # It measures how fast it derives keys, and gives up where the kernel's clock is too coarse for that.
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    told = ["qemu-img", "info", "--output", "json", "-f", form, str(path)]
    found: dict[str, object] = json.loads(subprocess.run(told, check=True, capture_output=True).stdout)
    return found


@qemu
@pytest.mark.parametrize(
    ("form", "options", "size"),
    [
        (form, options, size)
        for form, options in MADE
        for size in ("1M", "37M", "5G")
        # Making a key takes seconds, a full image its room: one size will do.
        if size == "1M"
        or not any(word in options for word in ("key-secret", "fixed", "preallocation", "static"))
    ],
)
def test_headers_say_what_qemu_img_says(tmp_path: Path, form: str, options: str, size: str):
    path = tmp_path / "image"
    said = made(path, form, options, size)
    found = check(form, view(path))
    assert (found.format, found.capacity) == (form, said["virtual-size"])
    assert formats.begins_like(view(path)) == form
    assert found.doubts == ()
    assert found.backing is None
    if "cluster-size" in said and form not in ("vmdk", "vpc", "vhdx"):
        assert found.cluster == said["cluster-size"]
    details = said.get("format-specific", {"data": {}})["data"]  # type: ignore[index]
    if form == "qcow2":
        assert found.version == {"0.10": 2, "1.1": 3}[details["compat"]]
        assert ("extended_l2" in found.features) == details.get("extended-l2", False)
        assert ("lazy_refcounts" in found.features) == details.get("lazy-refcounts", False)
        assert ("compression_type" in found.features) == (details["compression-type"] == "zstd")
        assert found.encryption == details.get("encrypt", {"format": ""})["format"]
        assert found.parts == ((details["data-file"],) if "data-file" in details else ())
    if form == "vmdk":
        extents = [Path(extent["filename"]).name for extent in details["extents"]]
        assert list(found.parts) == [name for name in extents if name != path.name]


@qemu
@pytest.mark.parametrize(
    ("form", "base"),
    [*itertools.product(("qcow2", "qcow", "qed"), ("raw", "qcow2", "vmdk")), ("vmdk", "vmdk")],
)
def test_backing_files_are_what_qemu_img_says(tmp_path: Path, form: str, base: str):
    made(tmp_path / "base", base, "", "4M")
    path = tmp_path / "image"
    said = made(path, form, "", "4M", "-b", "base", "-F", base)
    backing = check(form, view(path)).backing
    assert backing is not None
    assert backing.name == said["backing-filename"] == "base"
    keeps = {"qcow2": base, "qcow": "", "qed": "raw" if base == "raw" else "", "vmdk": "vmdk"}
    assert backing.format == keeps[form]


@qemu
def test_a_backing_name_may_have_1023_bytes_and_no_more(tmp_path: Path):
    path = tmp_path / "image"
    name = "ä" * 511 + "x"
    made(path, "qcow2", "", "4M", "-u", "-b", name, "-F", "raw")
    data = bytearray(path.read_bytes())
    assert check("qcow2", View.of(bytes(data))).backing == Backing(name, "raw")
    data[16:20] = struct.pack(">I", 1024)
    with pytest.raises(HeaderDamaged, match="1024 bytes, allowed are 1023"):
        check("qcow2", View.of(bytes(data)))


@qemu
def test_a_raw_disk_is_raw_whatever_a_guest_wrote_into_it(tmp_path: Path):
    made(tmp_path / "inner", "qcow2", "", "4M", "-u", "-b", "/etc/shadow", "-F", "raw")
    found = check("raw", view(tmp_path / "inner"))
    assert found == Header("raw", (tmp_path / "inner").stat().st_size)
    assert formats.begins_like(view(tmp_path / "inner")) == "qcow2"


@qemu
@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_file_that_is_not_what_it_is_said_to_be_is_refused(tmp_path: Path, form: str):
    (tmp_path / "image").write_bytes(bytes(64 * 1024))
    with pytest.raises(FormatDiffers, match=f"said to be {form}, but begins like raw"):
        check(form, view(tmp_path / "image"))
    other = "vdi" if form != "vdi" else "qcow2"
    made(tmp_path / "image", other, "", "4M")
    with pytest.raises(FormatDiffers, match=f"said to be {form}, but begins like {other}"):
        check(form, view(tmp_path / "image"))


@pytest.mark.parametrize("form", ["bochs", "dir", "auto", "", "QCOW2", "host_device"])
def test_formats_that_are_not_read_are_refused_with_those_that_are(form: str):
    with pytest.raises(ConfigUnsupported, match="known are raw, qcow2"):
        check(form, View.of(b"QFI\xfb\0\0\0\3"))


def qcow2(**changes: int | bytes) -> bytes:
    """A cluster of 512 bytes: header of version 3, extensions from 104 on, the name at 400."""
    values = {"name_at": 0, "name_size": 0, "bits": 9, "size": MIB, "cipher": 0, "l1_size": 0, "l1_at": 0}
    values |= {"incompatible": 0, "compatible": 0, "length": 104}
    extensions = changes.pop("extensions", b"")
    assert isinstance(extensions, bytes)
    values |= changes  # type: ignore[arg-type]
    order = ("name_at", "name_size", "bits", "size", "cipher", "l1_size", "l1_at")
    first = struct.pack(">IIQIIQIIQ", 0x514649FB, 3, *(values[key] for key in order))
    first += struct.pack(">QIIQ", 0, 0, 0, 0)
    first += struct.pack(">QQQII", values["incompatible"], values["compatible"], 0, 4, values["length"])
    assert len(first) == 104
    return (first + extensions).ljust(400, b"\0") + b"base.raw".ljust(112, b"\0")


def extension(kind: int, data: bytes) -> bytes:
    """As a header has it, padded."""
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


BACKING, DATA = 0xE2792ACA, 0x44415441


def test_a_header_of_our_making_is_read():
    said = extension(0x6803F857, b"x" * 48) + extension(BACKING, b"raw") + extension(0, b"")
    found = check(
        "qcow2", View.of(qcow2(name_at=400, name_size=8, extensions=said, incompatible=1, compatible=1))
    )
    assert found.backing == Backing("base.raw", "raw")
    assert found.features == ("dirty", "lazy_refcounts")
    assert found.capacity == MIB


def test_a_backing_file_without_a_format_is_told_without_one():
    found = check("qcow2", View.of(qcow2(name_at=400, name_size=8)))
    assert found.backing == Backing("base.raw", "")


def test_what_keeps_an_image_from_use_is_said():
    found = check("qcow2", View.of(qcow2(incompatible=2 | 1 << 9)))
    assert found.doubts == ("it is marked corrupt", "it needs feature 0x200, which is not known here")


def test_a_name_of_a_data_file_counts_only_with_its_bit():
    said = extension(DATA, b"data.raw")
    assert check("qcow2", View.of(qcow2(extensions=said))).parts == ()
    assert check("qcow2", View.of(qcow2(extensions=said, incompatible=4))).parts == ("data.raw",)
    assert check("qcow2", View.of(qcow2(incompatible=4))).parts == ("",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 8}, "2\\^8 bytes, allowed are 2\\^9"),
        ({"bits": 4000000000}, "allowed are 2\\^9 to 2\\^21"),
        ({"length": 96}, "has 96 bytes"),
        ({"length": 108}, "has 108 bytes"),
        ({"length": 520}, "has 520 bytes"),
        ({"size": 2**64 - 1}, "18446744073709551615 bytes, allowed"),
        ({"l1_size": 1, "l1_at": 2**63}, "the file has 512"),
        ({"name_at": 400, "name_size": 113}, "ends at byte 513, the header at 512"),
        ({"name_at": 2**63, "name_size": 8}, "the header at 512"),
        ({"name_at": 400, "name_size": 0}, "name is empty"),
        ({"name_at": 400, "name_size": 9}, "has a zero byte"),
        ({"cipher": 3}, "number 3 is not known"),
        ({"extensions": extension(BACKING, b"x" * 16)}, "has 16 bytes, allowed are 15"),
        ({"extensions": struct.pack(">II", BACKING, 2**32 - 1)}, "reaches over"),
        ({"extensions": struct.pack(">II", 7, 500)}, "reaches over"),
        ({"extensions": extension(DATA, b"a\0b"), "incompatible": 4}, "has a zero byte"),
    ],
)
def test_a_qcow2_header_that_contradicts_itself_is_damaged(changes: dict[str, int | bytes], words: str):
    with pytest.raises((HeaderDamaged, ConfigUnsupported), match=words):
        check("qcow2", View.of(qcow2(**changes)))


def test_a_header_that_says_less_of_the_file_than_it_needs_is_damaged():
    with pytest.raises(HeaderDamaged, match="needs 8 bytes at 400, 0 can be read"):
        check("qcow2", View.of(qcow2(name_at=400, name_size=8)[:400], 10 * MIB))


@qemu
@pytest.mark.parametrize("form", sorted({form for form, _ in MADE if form != "raw"}))
def test_every_truncated_header_is_read_or_refused_by_name(tmp_path: Path, form: str):
    options = next(options for made_form, options in MADE if made_form == form)
    path = tmp_path / "image"
    made(path, form, options, "1M")
    whole = path.read_bytes()[: 3 * MIB]
    places = {*range(0, min(len(whole), 1200), 7), *range(0, len(whole), 16381)}
    for length in places:
        read_or_refused(form, whole[:length])


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, bytes]:
    """A format, its magic, and anything after it."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    form = FORMATS[name]
    magic = draw(st.sampled_from(form.magics))
    after = draw(st.binary(max_size=600) | st.binary(min_size=500, max_size=600))
    return name, bytes(form.at) + magic + after


@given(broken())
def test_bytes_after_a_magic_raise_nothing_but_our_error(case: tuple[str, bytes]):
    name, data = case
    found = read_or_refused(name, data)
    assert found is None or 0 <= found.capacity < 2**63


@given(st.sampled_from(NAMES), st.binary(max_size=200))
def test_random_bytes_are_not_what_they_are_said_to_be(name: str, data: bytes):
    if name == "raw":
        assert check(name, View.of(data)) == Header("raw", len(data))
        return
    if read_or_refused(name, data) is not None:
        assert formats.begins_like(View.of(data)) == name


@given(st.data())
def test_a_qcow2_header_with_any_numbers_raises_nothing_but_our_error(data: st.DataObject):
    header = bytearray(qcow2(name_at=400, name_size=8, extensions=extension(BACKING, b"raw")))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, 150))
        header[at] = data.draw(st.sampled_from([0, 1, 9, 0x7F, 0x80, 0xFF]))
    read_or_refused("qcow2", bytes(header))


def changed(data: bytes, at: int, byte: int) -> View:
    """The same file with another byte."""

    def read(offset: int, length: int) -> bytes:
        found = bytearray(data[offset : offset + length])
        if offset <= at < offset + len(found):
            found[at - offset] = byte
        return bytes(found)

    return View(len(data), read)


@qemu
@pytest.mark.parametrize("form", ["vmdk", "vhdx", "vpc", "vdi", "parallels", "luks", "qed"])
def test_any_byte_of_a_real_header_may_be_another(tmp_path: Path, form: str):
    options = next(options for made_form, options in MADE if made_form == form)
    path = tmp_path / "image"
    made(path, form, options, "1M")
    whole = path.read_bytes()
    used = [at for at in range(len(whole)) if whole[at]][:1500]
    for at in used:
        for byte in (0, 0xFF, whole[at] ^ 0x80):
            read_or_refused(form, changed(whole, at, byte))


def descriptor(*lines: str) -> View:
    """A VMDK that is a text."""
    return View.of("\n".join(("# Disk DescriptorFile", "version=1", *lines)).encode())


def test_extents_of_a_vmdk_are_added_up_and_those_of_zeros_have_no_file():
    found = check(
        "vmdk", descriptor('RW 100 FLAT "a-flat.vmdk" 0', "RW 28 ZERO", 'RDONLY 72 SPARSE "b b.vmdk"')
    )
    assert found.capacity == 200 * 512
    assert found.parts == ("a-flat.vmdk", "b b.vmdk")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["RW 100 FLAT"], "kind FLAT has no file"),
        ([f"RW {'9' * 30} ZERO"], "more sectors than a disk"),
        ([f"RW {'9' * 5000} ZERO"], "more sectors than a disk"),
        (["RW 99999999999999999999 ZERO"], "bytes, allowed are"),
        (["parentCID=1", "RW 1 ZERO"], "parent's name is empty"),
        (["x" * 70000], "descriptor has"),
    ],
)
def test_a_vmdk_whose_text_cannot_be_is_damaged(lines: list[str], words: str):
    with pytest.raises(HeaderDamaged, match=words):
        check("vmdk", descriptor(*lines))
