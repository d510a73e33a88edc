"""The documents: links lead somewhere, generated ones are fresh, every make target is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import check_generated
from tools.tree import ROOT, tracked

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
DOCUMENTS = tracked("*.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_inside_the_project_lead_somewhere(path: Path) -> None:
    found = LINK.findall((ROOT / path).read_text())
    assert [link for link in found if not (ROOT / path.parent / link).exists()] == []


def test_generated_files_are_fresh() -> None:
    assert check_generated.main([]) == 0


def test_make_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE).group(1).split()) - {"help"}  # type: ignore[union-attr]
    assert targets == set(re.findall(r"^([a-z-]+):[^#\n]*## \S", text, re.MULTILINE))


def test_pinned_versions_name_no_registry_and_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0].split("dependencies = [")[1]
    wanted = {
        re.sub(r"[-_.]+", "-", name).lower()
        for name in re.findall(r'"([A-Za-z0-9_.-]+)(?:\[\w+\])?>=', project)
    }
    assert wanted - pinned == set()
