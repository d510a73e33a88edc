"""CURVE key files and one-time join tokens.  Knows no sockets and no node list."""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq

_Z85_LENGTH = 40


class KeyFileError(Exception):
    """A key file cannot be read or holds something else; the text names the file and what was found."""


class TokenError(Exception):
    """A join token is not one of ours or was cut short."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, both parts in z85 (40 characters)."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """What a new agent needs: addresses, the front end's public key, a secret key good for one use."""

    node: str
    control: str
    bulk: str
    server_key: str
    join_secret: str = field(repr=False)

    @property
    def join_pair(self) -> KeyPair:
        """The key pair under which the agent may register."""
        return KeyPair(public_of(self.join_secret), self.join_secret)


def new_pair() -> KeyPair:
    """A fresh key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def public_of(secret: str) -> str:
    """The public key of a secret one; raises KeyFileError when it is no CURVE key."""
    try:
        return zmq.curve_public(secret.encode()).decode()
    except (zmq.ZMQError, ValueError, UnicodeEncodeError) as error:
        raise KeyFileError(f"not a CURVE secret key of {_Z85_LENGTH} characters: {error}") from error


def load(path: Path) -> KeyPair:
    """Read a key file: TOML with `public` and `secret`; raises KeyFileError."""
    try:
        found = tomllib.loads(path.read_text())
        pair = KeyPair(found["public"], found["secret"])
    except (OSError, KeyError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"key file {path} cannot be read: {error!r}") from error
    if public_of(pair.secret) != pair.public:
        raise KeyFileError(f"key file {path}: the public key does not belong to the secret one")
    return pair


def save(path: Path, pair: KeyPair) -> None:
    """Write a key file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        # Literal strings: z85 has no single quote, but it may hold what a basic string would escape.
        file.write(f"public = '{pair.public}'\nsecret = '{pair.secret}'\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_or_make(path: Path) -> KeyPair:
    """The key pair of `path`, made first when there is no such file."""
    if not path.exists():
        save(path, new_pair())
    return load(path)


def make_token(node: str, control: str, bulk: str, server_key: str, join_secret: str) -> str:
    """A join token as one word of url-safe base64."""
    body = msgspec.json.encode([node, control, bulk, server_key, join_secret])
    return base64.urlsafe_b64encode(zlib.crc32(body).to_bytes(4, "big") + body).decode().rstrip("=")


def read_token(text: str) -> Token:
    """The parts of a token; raises TokenError."""
    word = text.strip()
    try:
        raw = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
        if zlib.crc32(raw[4:]).to_bytes(4, "big") != raw[:4]:
            raise TokenError("the join token is damaged: its checksum does not agree")
        return Token(*msgspec.json.decode(raw[4:], type=tuple[str, str, str, str, str]))
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise TokenError(f"not a join token: {error}") from error
