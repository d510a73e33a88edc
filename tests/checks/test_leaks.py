"""The leak fixtures: a test that leaves something behind fails, and the message says what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

LEAKS = {
    "asyncio tasks": (
        "import asyncio\nasync def test_x():\n    globals()['t'] = asyncio.create_task(asyncio.sleep(99))\n"
    ),
    "child process": (
        "import subprocess\ndef test_x():\n    subprocess.Popen(['sleep', '20']).returncode = 0\n"
    ),
    "left behind by the whole run": (
        "import os\ndef test_x():\n    os.system('setsid -f sleep 20 >/dev/null 2>&1')\n"
    ),
}


def _run(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    tests = tmp_path / "tests"
    (tests / "support").mkdir(parents=True)
    for name in (
        "conftest.py",
        "__init__.py",
        "support/__init__.py",
        "support/leaks.py",
        "support/machine.py",
    ):
        (tests / name).write_text((ROOT / "tests" / name).read_text())
    (tests / "test_x.py").write_text(source)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_x.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_fails_the_test_that_left_it(what: str, tmp_path: Path) -> None:
    ended = _run(tmp_path, '"""Leaks."""\n' + LEAKS[what])
    # Whatever was left on purpose carries the inner run's marker and ends by itself.
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert what in ended.stdout


def test_a_clean_test_passes(tmp_path: Path) -> None:
    source = (
        '"""Clean."""\nimport asyncio\nasync def test_x():\n    await asyncio.create_task(asyncio.sleep(0))\n'
    )
    ended = _run(tmp_path, source)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
