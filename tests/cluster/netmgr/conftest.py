"""A lab for each test, made of namespaces; nothing of it stays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.netmgr.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An underlay and an outside; a directory that dnsmasq may read without being root."""
    if os.geteuid():
        pytest.skip("needs root for network namespaces")
    with tempfile.TemporaryDirectory(prefix="nm-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        made = Lab(path)
        try:
            yield made
        finally:
            made.close()
