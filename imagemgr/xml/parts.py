"""What documents of pools and of volumes share: permissions, secrets, encryption.  Pure."""

from __future__ import annotations

from compat.xmldoc import Element
from imagemgr.errors import ConfigUnsupported, XmlInvalid
from imagemgr.model import Auth, Cipher, Encryption, Permissions, Secret
from imagemgr.xml.values import UINT, choice, integer, number, one_of, parse_uuid, said

ENCRYPTIONS = ("default", "qcow", "luks", "luks2")
ENGINES = ("qemu", "librbd")
AUTH_TYPES = ("chap", "ceph")


def read_permissions(element: Element | None) -> Permissions:
    """<permissions>; XmlInvalid."""
    if element is None:
        return Permissions()
    return Permissions(
        _read_mode(said(element, "./mode")),
        _read_id(element, "owner"),
        _read_id(element, "group"),
        said(element, "./label"),
    )


def _read_mode(text: str) -> int | None:
    if not text:
        return None
    mode = integer(text, 0, 0o777, base=8)
    if mode is None:
        raise XmlInvalid(f"the mode of <permissions> is '{text}', allowed are 0 to 0777")
    return mode


def _read_id(element: Element, name: str) -> int | None:
    """A number of a user or group; -1, also as a number without a sign, is none."""
    if element.find(name) is None:
        return None
    text = said(element, f"./{name}")
    value = integer(text, -1, UINT)
    if value is None:
        raise XmlInvalid(f"the {name} of <permissions> is '{text}', allowed are -1 to {UINT}")
    return None if value in (-1, UINT) else value


def read_auth(element: Element) -> Auth:
    """<auth> of a pool; XmlInvalid, ConfigUnsupported."""
    username, kind = said(element, "./@username"), said(element, "./@type")
    if not username:
        raise XmlInvalid("<auth> has no username")
    if kind:
        one_of(kind, ("none", *AUTH_TYPES), "the type of <auth>", ConfigUnsupported)
    secret = element.find("secret")
    if secret is None:
        raise XmlInvalid("<auth> has no <secret>")
    found = read_secret(secret, secret.get("type"))
    if kind not in AUTH_TYPES:
        raise ConfigUnsupported(f"<auth> has no type, allowed are {', '.join(AUTH_TYPES)}")
    return Auth(kind, username, found)


def read_secret(element: Element, kind: str | None) -> Secret:
    """<secret>, by uuid or usage; XmlInvalid."""
    uuid, usage = element.get("uuid"), element.get("usage")
    if uuid is not None and usage is not None:
        raise XmlInvalid("<secret> has a uuid and a usage, one is allowed")
    if uuid is not None:
        return Secret(kind, parse_uuid(uuid))
    if usage is None:
        raise XmlInvalid("<secret> has neither uuid nor usage")
    return Secret(kind, usage=usage)


def read_encryption(element: Element) -> Encryption:
    """<encryption>; XmlInvalid, ConfigUnsupported."""
    kind = said(element, "./@format")
    if not kind:
        raise XmlInvalid("<encryption> has no format")
    one_of(kind, ENCRYPTIONS, "the format of <encryption>", ConfigUnsupported)
    engine = choice(element, "engine", ENGINES) or ""
    secrets = tuple(_read_passphrase(child) for child in element.findall("secret"))
    return Encryption(kind, engine, secrets, _read_cipher(element) if kind == "luks" else None)


def _read_passphrase(element: Element) -> Secret:
    kind = said(element, "./@type")
    if not kind:
        raise XmlInvalid("<secret> of <encryption> has no type")
    one_of(kind, ("passphrase",), "the type of <secret>", ConfigUnsupported)
    return read_secret(element, kind)


def _read_cipher(element: Element) -> Cipher | None:
    cipher, ivgen = element.find("cipher"), element.find("ivgen")
    if cipher is None:
        if ivgen is not None:
            raise XmlInvalid("<encryption> has <ivgen> but no <cipher>")
        return None
    name, bits = cipher.get("name"), number(cipher, "size", 0, UINT)
    if name is None or bits is None:
        raise XmlInvalid(f"<cipher> has no {'name' if name is None else 'size'}")
    generator = None if ivgen is None else ivgen.get("name")
    if ivgen is not None and generator is None:
        raise XmlInvalid("<ivgen> has no name")
    found = None if ivgen is None else ivgen.get("hash")
    return Cipher(name, bits, cipher.get("mode"), cipher.get("hash"), generator, found)
