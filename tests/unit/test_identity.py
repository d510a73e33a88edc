"""The identity that a proxy tells: what libvirt refuses is refused, and the audit line cannot be broken by it."""

from __future__ import annotations

import pytest

from clusterhost.frontend.libvirt import errors, identity
from compat.libvirt.typedparams import INT, LLONG, STRING, ULLONG, to_params


def test_what_is_told_is_said_in_one_line() -> None:
    told = to_params([("user-name", STRING, "a\nb\x1b[0m"), ("process-id", LLONG, 7)])
    assert identity.checked(told) == "process-id=7,user-name=a?b?[0m"
    assert identity.checked([]) == ""
    assert len(identity.checked(to_params([("user-name", STRING, "x" * 9000)]))) == identity.LONGEST


@pytest.mark.parametrize(
    ("told", "code", "text"),
    [
        ([("user-name", INT, 5)], 8, "invalid type 'int' for parameter 'user-name', expected 'string'"),
        ([("unix-user-id", INT, 0)], 8, "invalid type 'int' for parameter 'unix-user-id', expected 'ullong'"),
        ([("user-name", STRING, "x")] * 2, 8, "parameter 'user-name' occurs multiple times"),
        ([("bogus", STRING, "x")], 74, "parameter 'bogus' not supported"),
        ([("user-name", INT, 5), ("bogus", STRING, "x")], 74, "parameter 'bogus' not supported"),
        ([("zzz", STRING, "x"), ("unix-user-id", ULLONG, 1), ("user-name", INT, 1)], 8, "invalid type 'int'"),
    ],
)
def test_a_bad_parameter_is_refused_in_libvirts_words(
    told: list[tuple[str, int, object]], code: int, text: str
) -> None:
    """Found by asking a libvirtd 9.0.0, which looks at them by name."""
    with pytest.raises(errors.WireError) as refused:
        identity.checked(to_params(told))  # type: ignore[arg-type]
    assert refused.value.code == code
    assert str(refused.value).startswith(text)
