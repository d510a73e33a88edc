"""Which address an agent names for its node's VXLAN links, and what their link carries."""

from pathlib import Path

from clusterhost.agent.underlay import address, mtu

AWAY = "tcp://127.0.0.1:16600"


def test_what_the_operator_gave_wins() -> None:
    assert address("10.9.0.1", "10.8.0.1", AWAY) == "10.9.0.1"


def test_else_it_is_where_guests_that_move_are_sent_to() -> None:
    assert address("", "10.8.0.1", AWAY) == "10.8.0.1"
    assert address("", "[fd00::1]", AWAY) == "fd00::1"


def test_loopback_is_never_an_address_among_nodes() -> None:
    assert address("127.0.0.1", "", AWAY) == ""
    assert address("localhost", "10.8.0.1", AWAY) == ""


def test_a_name_that_nobody_knows_is_no_address() -> None:
    assert address("no-such-machine.invalid", "", AWAY) == ""
    assert address("", "no-such-machine.invalid", AWAY) in ("", address("", "", AWAY))


def test_what_a_link_carries_is_that_of_the_one_which_has_the_address() -> None:
    loopback = int(Path("/sys/class/net/lo/mtu").read_text())
    assert mtu("127.0.0.1") == mtu("::1") == loopback
    assert mtu("192.0.2.1") == mtu("2001:db8::1") == 0
