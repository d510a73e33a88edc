"""Which tests are run a second time, and what is told of the first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import secondrun

CONFTEST = """
from pathlib import Path
import pytest
from tests.support import secondrun

def pytest_addoption(parser):
    parser.addoption(secondrun.OPTION, action="store_true")

def pytest_configure(config):
    config.pluginmanager.register(secondrun.SecondRun(Path(__file__).parent, ("real",)))

def count(name):
    file = Path(__file__).with_name(name)
    number = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(number))
    return number

@pytest.fixture(scope="session")
def cluster():
    yield count("clusters")

@pytest.fixture(scope="module")
def pool(cluster):
    assert count("pools") > 1, "no pool yet"
"""
HEAD = "from conftest import count\nimport pytest, time\n"
ONCE = "def test_once(cluster):\n    print('seen')\n    assert count('runs') == 2, f'in cluster {cluster}'\n"


def run(tmp_path: Path, *options: str, **files: str) -> str:
    """pytest's output; files are tests' modules by folder."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for folder, text in files.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"test_{folder}.py").write_text(HEAD + text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=50, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("workers", [(), ("--dist", "loadfile", "--tx", "2*popen")])
def test_what_failed_once_is_run_again_and_told(tmp_path: Path, workers: tuple[str, ...]) -> None:
    text = run(tmp_path, *workers, real=ONCE + "def test_after(cluster):\n    assert cluster == 2\n")
    assert "= 2 passed, 1 rerun in " in text
    assert "test_once (call)" in text
    assert "AssertionError: in cluster 1" in text
    assert "\nseen\n" in text


def test_what_fails_again_has_failed(tmp_path: Path) -> None:
    text = run(tmp_path, real="def test_never():\n    assert count('runs') > 2\n")
    assert "= 1 failed, 1 rerun in " in text
    assert (tmp_path / "runs").read_text() == "2"


def test_a_fixture_that_failed_is_made_anew(tmp_path: Path) -> None:
    assert "= 2 passed, 1 rerun in " in run(
        tmp_path, real="def test_a(pool): pass\n\ndef test_b(pool): pass\n"
    )
    assert [(tmp_path / name).read_text() for name in ("clusters", "pools")] == ["2", "2"]


def test_a_time_limit_begins_anew(tmp_path: Path) -> None:
    slow = "@pytest.mark.timeout(2)\ndef test_slow():\n    time.sleep(9 if count('runs') == 1 else 1.2)\n"
    assert "= 1 passed, 1 rerun in " in run(tmp_path, real=slow)


def test_other_folders_and_many_failures_are_not_run_again(tmp_path: Path) -> None:
    every = "@pytest.mark.parametrize('n', range(9))\ndef test_all(n):\n    assert count(f'r{n}') == 2\n"
    text = run(tmp_path, real=every, unit=ONCE)
    most = secondrun.MOST
    assert f"= {10 - most} failed, {most} passed, {most} rerun in " in text


def test_it_can_be_left_out(tmp_path: Path) -> None:
    assert "= 1 failed in " in run(tmp_path, secondrun.OPTION, real=ONCE)
