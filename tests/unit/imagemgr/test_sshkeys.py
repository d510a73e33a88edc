"""Public keys: those that OpenSSH makes are taken, with all that may stand around them; what is broken is refused."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagemgr import sshkeys
from imagemgr.errors import SeedRefused
from tests.support.sshkeys import BLOB, KEY

DATA = base64.b64decode(BLOB)


def field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def line(kind: str, *fields: bytes) -> str:
    """A key of a type with these fields behind it."""
    return f"{kind} {base64.b64encode(field(kind.encode()) + b''.join(map(field, fields))).decode()}"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_what_openssh_makes_is_taken_and_what_it_signs(tmp_path: Path, kind: str):
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "two words", "-f", str(path)], check=True)
    sshkeys.check((tmp_path / "key.pub").read_text().strip())
    words = ["ssh-keygen", "-q", "-s", str(path), "-I", "me", "-n", "root", "-O", "clear", f"{path}.pub"]
    subprocess.run(words, check=True)
    sshkeys.check((tmp_path / "key-cert.pub").read_text().strip())


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"ssh-ed25519 {BLOB}",
        f"ssh-ed25519  {BLOB}  two  words",
        f"ssh-ed25519 {BLOB} größer",
        f"restrict {KEY}",
        f'command="echo a b",no-pty,from="10.0.0.0/8,!10.0.0.1" {KEY}',
        f'command="echo \\"a b\\" ssh-rsa" {KEY}',
        f'environment="A=b",expiry-time="20300101" {KEY}',
        line("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:") + " token",
        line("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", bytes(65), b"ssh:"),
    ],
)
def test_a_line_has_perhaps_options_a_type_a_key_and_perhaps_a_comment(text: str):
    sshkeys.check(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "one is 'ssh-ed25519"),
        ("ssh-ed25519", "one is 'ssh-ed25519"),
        (BLOB, "one is 'ssh-ed25519"),
        (f"me@here {BLOB}", "one is 'ssh-ed25519"),
        (f"no pty {KEY}", "one is 'ssh-ed25519"),
        (f'command="echo {KEY}', "one is 'ssh-ed25519"),
        (f"command=echo {KEY}", "one is 'ssh-ed25519"),
        (f"{KEY}\x1b[2J", "one is 'ssh-ed25519"),
        (f"{KEY}\nssh-rsa AAAA", "one is 'ssh-ed25519"),
        ("ssh-ed25519 *** x", "what follows ssh-ed25519 is no base64, or not all of it"),
        (f"ssh-ed25519 {BLOB[:-1]}", "what follows ssh-ed25519 is no base64, or not all of it"),
        (
            line("ssh-rsa", b"1", b"22").replace("Mg==", "Mh=="),
            "what follows ssh-rsa is no base64, or not all of it",
        ),
        ("ssh-ed25519 AAAA", "what follows ssh-ed25519 is no key"),
        ("ssh-ed25519 aGVsbG8gaGVsbG8=", "what follows ssh-ed25519 is no key"),
        (f"ssh-rsa {BLOB}", "what follows ssh-rsa is a key of type ssh-ed25519"),
        (f"ssh-ed25519 {BLOB[:-4]}", "a part of what follows ssh-ed25519 is missing"),
        (line("ssh-rsa"), "a part of what follows ssh-rsa is missing"),
        (line("ssh-rsa", b"\1", b""), "a part of what follows ssh-rsa is missing"),
    ],
)
def test_what_a_guests_sshd_would_not_take_is_refused_with_the_reason(text: str, why: str):
    with pytest.raises(SeedRefused, match="is no public key") as refused:
        sshkeys.check(text)
    assert why in str(refused.value)


@given(st.integers(0, len(DATA) - 1))
def test_no_beginning_of_a_key_is_a_key(length: int):
    with pytest.raises(SeedRefused):
        sshkeys.check(f"ssh-ed25519 {base64.b64encode(DATA[:length]).decode()} me@here")


@given(st.text(max_size=40), st.binary(max_size=60))
def test_anything_is_taken_or_refused(text: str, data: bytes):
    for each in (text, f"ssh-rsa {base64.b64encode(data).decode()}", f"{text} {KEY}"):
        with contextlib.suppress(SeedRefused):
            sshkeys.check(each)


def test_a_long_line_of_nothing_is_refused_at_once():
    for each in ("ssh-rsa " + "A" * (1 << 20), 'a="' * (1 << 16), "a," * (1 << 18), "a " * (1 << 18)):
        with pytest.raises(SeedRefused):
            sshkeys.check(each)
