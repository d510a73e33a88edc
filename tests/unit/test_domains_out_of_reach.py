"""What a client that polls is shown of a definition on record, without the secrets in it."""

from __future__ import annotations

import pytest

from clusterhost.frontend.libvirt.handlers.domains import without_secrets


@pytest.mark.parametrize(
    ("xml", "shown"),
    [
        (
            "<graphics type='vnc' port='-1' passwd='a&amp;&quot;x' passwdValidTo='2030-01-01T00:00:00'><listen/>",
            "<graphics type='vnc' port='-1' passwdValidTo='2030-01-01T00:00:00'><listen/>",
        ),
        (
            "<graphics type='spice'\n passwd = \"y'>z\" autoport='yes'/>",
            "<graphics type='spice' autoport='yes'/>",
        ),
        ("<graphics type='a>b' passwd='s'/><graphics passwd='t'/>", "<graphics type='a>b'/><graphics/>"),
        ("<description>passwd='no secret'</description>", "<description>passwd='no secret'</description>"),
        ("<graphics type='vnc'/>", "<graphics type='vnc'/>"),
    ],
)
def test_passwords_of_displays_are_left_out_as_libvirt_does(xml: str, shown: str) -> None:
    assert without_secrets(xml) == shown


def test_a_definition_with_cookies_is_not_shown_without_its_secrets() -> None:
    assert without_secrets("<source><cookies><cookie name='a'>b</cookie></cookies></source>") is None
