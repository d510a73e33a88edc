"""First boot: documents that every reader takes alike, what is refused, and the volume's bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from ipaddress import ip_interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycdlib import PyCdlib

from imagemgr import iso, seeds
from imagemgr.errors import SeedRefused
from imagemgr.formats import View, begins_like
from imagemgr.seeds import Guest, Interface
from tests.support.sshkeys import KEY

MAC = "52:54:00:11:22:33"
OTHER = "52:54:00:11:22:34"

NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no YAML document may have (YAML 1.1, c-printable; next line is left out, as 1.1 ends a line by it)."""
TEXTS = st.text(max_size=20)


def config(*interfaces: Interface) -> dict[str, dict[str, object]]:
    """The interfaces of a network-config."""
    found: dict[str, dict[str, object]] = seeds.network_config(interfaces)["ethernets"]
    return found


def test_a_guest_is_told_its_name_keys_and_nothing_of_networks_by_default():
    found = seeds.documents(Guest("web", keys=(KEY,)))
    assert set(found) == {"meta-data", "user-data"}
    assert json.loads(found["meta-data"]) == {
        "instance-id": "iid-web",
        "local-hostname": "web",
        "public-keys": [KEY],
    }
    assert found["user-data"] == b"#cloud-config\n{}\n"


def test_user_data_and_a_network_of_the_users_own_are_passed_as_they_are():
    data, network = b"#!/bin/sh\r\n\xff\0", b"version: 1\n"
    found = seeds.documents(
        Guest("web", "i-7", user_data=data, network=network, interfaces=(Interface(MAC),))
    )
    assert (found["user-data"], found["network-config"]) == (data, network)
    assert json.loads(found["meta-data"])["instance-id"] == "i-7"


def test_an_interface_is_told_as_cloud_init_2_wants_it():
    found = config(
        Interface(
            MAC.upper(),
            ("10.50.0.5/24", "fd00:77::5/64"),
            ("10.50.0.1", "fd00:77::1"),
            ("10.50.0.1", "FD00:77:0::1"),
            ("blue.lan",),
            1450,
        ),
        Interface(OTHER, dhcp4=True),
    )
    assert found == {
        "eth0": {
            "match": {"macaddress": MAC},
            "set-name": "eth0",
            "addresses": ["10.50.0.5/24", "fd00:77::5/64"],
            "gateway4": "10.50.0.1",
            "gateway6": "fd00:77::1",
            "nameservers": {"addresses": ["10.50.0.1", "fd00:77::1"], "search": ["blue.lan"]},
            "mtu": 1450,
        },
        "eth1": {"match": {"macaddress": OTHER}, "set-name": "eth1", "dhcp4": True},
    }


def test_only_one_interface_has_the_default_route_of_a_family():
    found = config(
        Interface(MAC, ("10.1.0.5/24",), ("10.1.0.1", "10.1.0.2")),
        Interface(OTHER, ("10.2.0.5/24", "fd00::5/64"), ("10.2.0.1", "fd00::1")),
    )
    assert found["eth0"]["gateway4"] == "10.1.0.1"
    assert "gateway4" not in found["eth1"]
    assert found["eth1"]["gateway6"] == "fd00::1"


def test_a_gateway_outside_of_the_subnet_is_said_to_be_on_the_link():
    found = config(Interface(MAC, ("10.9.0.2/32",), ("10.0.0.1", "fe80::1")))["eth0"]
    assert found["routes"] == [{"to": "0.0.0.0/0", "via": "10.0.0.1", "on-link": True}]
    assert found["gateway6"] == "fe80::1"


@pytest.mark.parametrize(
    ("interfaces", "words"),
    [
        ((Interface(""),), "'' is no MAC"),
        ((Interface("52:54:00:11:22"),), "is no MAC"),
        ((Interface(MAC), Interface(MAC.upper())), "two interfaces have the MAC"),
        ((Interface(MAC, ("10.0.0.5",)),), "with a prefix"),
        ((Interface(MAC, ("10.0.0.5/33",)),), "with a prefix"),
        ((Interface(MAC, ("fe80::1%eth0/64",)),), "with a prefix"),
        ((Interface(MAC, gateways=("gate",)),), "gateway 'gate' is no address"),
        ((Interface(MAC, dns=("10.0.0.300",)),), "name server '10.0.0.300' is no address"),
        ((Interface(MAC, dns=("fe80::1%eth0",)),), "names a link"),
        ((Interface(MAC, search=("a b",)),), "no domain to search"),
        ((Interface(MAC, search=("",)),), "no domain to search"),
        ((Interface(MAC, mtu=67),), "68 to 65535"),
        ((Interface(MAC, mtu=65536),), "68 to 65535"),
    ],
)
def test_what_no_guest_can_be_told_of_its_networks_is_refused(interfaces: tuple[Interface, ...], words: str):
    with pytest.raises(SeedRefused, match=words):
        seeds.network_config(interfaces)


@pytest.mark.parametrize(
    "name", ["", "a b", "web_1", "-a", "a-", ".a", "a.", "a..b", "x" * 64, "ä", "a\nb", "a/b"]
)
def test_a_name_that_no_host_can_have_is_refused(name: str):
    with pytest.raises(SeedRefused, match="no host name"):
        seeds.documents(Guest(name))


def test_instance_ids_are_names_of_directories_in_the_guest():
    for instance in ("../x", "a b", "x" * 256):
        with pytest.raises(SeedRefused, match="no instance id"):
            seeds.documents(Guest("web", instance))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (KEY, 1),
        (f"# mine\n\n{KEY}\r\n{KEY}\n", 2),
        ('command="echo a b",no-pty ' + KEY, 1),
    ],
)
def test_public_keys_are_found_in_a_file(text: str, count: int):
    assert len(seeds.keys_in(text)) == count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no key"),
        ("# only this\n", "no key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb\n-----END OPENSSH PRIVATE KEY-----\n", "private key"),
        (f"{KEY}\nhello\n", "'hello' is no public key"),
        ("ssh-ed25519", "no public key"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str, words: str):
    with pytest.raises(SeedRefused, match=words):
        seeds.keys_in(text)


def test_user_data_that_cloud_init_would_pass_over_is_doubted():
    assert seeds.doubt(b"packages: [vim]\n").startswith("user-data begins with 'packages: [vim]'")
    for begin in seeds.BEGINNINGS:
        assert seeds.doubt(begin + b"\n") == ""
    assert seeds.doubt(b"") == ""


@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS) | st.integers() | st.booleans()))
def test_a_document_is_yaml_and_json_and_both_say_the_same(value: dict[str, object]):
    text = seeds.yaml(value).decode()
    assert json.loads(text) == value
    assert not NOT_YAML.search(text)
    assert len(text.splitlines()) == text.count("\n"), "nothing else ends a line"
    assert "\t" not in text


@given(st.text(max_size=40), TEXTS, st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20))))
def test_whatever_is_told_is_refused_or_written_down_whole(
    name: str, instance: str, interfaces: list[tuple[str, str]]
):
    guest = Guest(name, instance, interfaces=tuple(Interface(mac, (address,)) for mac, address in interfaces))
    try:
        found = seeds.documents(guest)
    except SeedRefused:
        return
    assert json.loads(found["meta-data"])["local-hostname"] == name


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)), min_size=1, max_size=4))
def test_addresses_are_told_as_they_are(numbers: list[tuple[int, int]]):
    addresses = tuple(
        ip_interface(number).with_prefixlen.replace("/32", f"/{bits}") for number, bits in numbers
    )
    assert config(Interface(MAC, addresses))["eth0"]["addresses"] == list(addresses)


# -- the volume

FILES = {"meta-data": b"{}\n", "user-data": b"#!" + b"x" * 5000, "network-config": b"\0\xff"}


def read(data: bytes, **where: str) -> dict[str, bytes]:
    """Files of a volume, by the names of one of its three trees."""
    (tree,) = where
    volume = PyCdlib()
    volume.open_fp(BytesIO(data))
    found = {}
    for child in volume.list_children(**where):
        if child is None or not child.is_file():
            continue
        written = BytesIO()
        name = child.file_identifier()
        shown = child.rock_ridge.name() if child.rock_ridge and tree == "rr_path" else name
        shown = shown.decode("utf-16-be" if tree == "joliet_path" else "ascii")
        volume.get_file_from_iso_fp(written, **{tree: "/" + shown})
        found[shown] = written.getvalue()
    volume.close()
    return found


@pytest.mark.parametrize("tree", ["rr_path", "joliet_path"])
def test_a_volume_has_its_files_by_both_kinds_of_long_names(tree: str):
    assert read(iso.volume("cidata", FILES), **{tree: "/"}) == FILES


def test_a_volume_is_a_cd_with_the_name_that_cloud_init_looks_for():
    data = iso.volume(seeds.LABEL, FILES)
    assert begins_like(View.of(data)) == "iso"
    assert data[16 * 2048 + 40 : 16 * 2048 + 72].strip() == b"cidata"
    assert data[17 * 2048 + 40 : 17 * 2048 + 72].decode("utf-16-be").strip("\0 ") == "cidata"
    assert len(data) % 2048 == 0


def test_the_same_files_make_the_same_bytes_on_another_day_in_another_country():
    script = (
        "import hashlib, time; real = time.time; time.time = lambda: real() + 1e7\n"
        "from imagemgr.iso import volume\n"
        f"print(hashlib.sha256(volume('cidata', {FILES!r})).hexdigest())"
    )
    environment = {**os.environ, "TZ": "Asia/Kathmandu"}
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=root)
    assert done.stdout.strip() == hashlib.sha256(iso.volume("cidata", FILES)).hexdigest()
    turned = dict(reversed(FILES.items()))
    assert iso.volume("cidata", turned) == iso.volume("cidata", FILES), "whatever order they come in"


def test_other_files_make_other_bytes():
    assert iso.volume("cidata", FILES) != iso.volume("cidata", {**FILES, "meta-data": b"{} "})


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid is not installed")
def test_blkid_sees_the_volume(tmp_path: Path):
    (tmp_path / "x.iso").write_bytes(iso.volume("cidata", FILES))
    said = subprocess.run(
        ["blkid", "-p", "-o", "export", "x.iso"], cwd=tmp_path, check=True, capture_output=True
    )
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(said.stdout.decode().splitlines())


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed")
def test_xorriso_reads_what_was_written(tmp_path: Path):
    (tmp_path / "x.iso").write_bytes(iso.volume("cidata", FILES))
    command = ["xorriso", "-osirrox", "on", "-indev", "x.iso", "-extract", "/", "out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == FILES
