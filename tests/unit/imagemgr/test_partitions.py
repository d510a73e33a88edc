"""The node whose disk a partition's name fits."""

from __future__ import annotations

import pytest

from imagemgr.partitions import Fit, fit


@pytest.mark.parametrize(
    ("name", "device", "listed", "wanted"),
    [
        ("sdb1", "/dev/sdb", [], Fit.NEXT),
        ("sdb1", "/dev/sdb", ["sdb1"], Fit.SAME),
        ("sdb2", "/dev/sdb", ["sdb1", "sdb3"], Fit.NEXT),
        ("sdb9", "/dev/sdb", [], Fit.SAME),
        ("nvme0n1p1", "/dev/nvme0n1", [], Fit.NEXT),
        ("nvme0n1p2", "/dev/nvme0n1", ["nvme0n1p1"], Fit.NEXT),
        ("sdc1", "/dev/disk/by-id/abc", [], Fit.UNKNOWN),
        ("sdc2", "/dev/disk/by-id/abc", ["sdc1"], Fit.NEXT),
        ("sdc1", "/dev/disk/by-id/abc", ["sdd1"], Fit.OTHER),
        ("data", "/dev/sdb", [], Fit.OTHER),
    ],
)
def test_a_name_fits_the_disk_whose_next_partition_is_called_so(
    name: str, device: str, listed: list[str], wanted: Fit
) -> None:
    assert fit(name, device, listed) is wanted
