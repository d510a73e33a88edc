"""Write files as a CD (ISO 9660, Joliet, Rock Ridge), the same bytes for the same files.  Knows no document."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from pycdlib import PyCdlib
from pycdlib.dates import DirectoryRecordDate
from pycdlib.dr import DirectoryRecord

_SECTOR = 2048
_DESCRIPTORS = (16, 17)
"""Sectors of the volume descriptors: the plain one, and Joliet's."""

_DATES_AT = 813
_WRITTEN = b"1980010100000000\0"
_UNSAID = b"0" * 16 + b"\0"
_DATES = _WRITTEN + _WRITTEN + _UNSAID + _UNSAID
"""A volume's creation, change, expiry, and from when on it is true (ECMA-119 8.4.26 to 8.4.29)."""

_FILE_DATE = (80, 1, 1, 0, 0, 0, 0)
"""The same day in a directory (ECMA-119 9.1.5): years since 1900, month, day, time, quarters of an hour from UTC."""


def volume(label: str, files: Mapping[str, bytes]) -> bytes:
    """The image of a CD of that name with these files in its root.

    Names: as they are in Rock Ridge and Joliet, plainly F0, F1 in their order."""
    iso = PyCdlib()
    iso.new(interchange_level=1, vol_ident=label, app_ident_str="CLUSTERHOST", joliet=3, rock_ridge="1.09")
    try:
        for number, (name, data) in enumerate(sorted(files.items())):
            plain = f"/F{number}.;1"
            iso.add_fp(
                BytesIO(data), len(data), plain, rr_name=name, joliet_path=f"/{name}", file_mode=0o100444
            )
        for record in (*iso.list_children(iso_path="/"), *iso.list_children(joliet_path="/")):
            _date(record)
        for root in (iso.get_record(iso_path="/"), iso.get_record(joliet_path="/")):
            _date(root)
        written = BytesIO()
        iso.write_fp(written)
    finally:
        iso.close()
    found = bytearray(written.getvalue())
    # It puts the time of writing here while it writes.
    for sector in _DESCRIPTORS:
        start = sector * _SECTOR + _DATES_AT
        found[start : start + len(_DATES)] = _DATES
    return bytes(found)


def _date(record: object) -> None:
    """Give a file or directory the day that all have."""
    if not isinstance(record, DirectoryRecord):
        return
    date = DirectoryRecordDate.from_fields(*_FILE_DATE)
    record.date = date
    if record.rock_ridge is None:
        return
    for entries in (record.rock_ridge.dr_entries, record.rock_ridge.ce_entries):
        stamps = entries.tf_record if entries is not None else None
        if stamps is not None:
            stamps.creation_time = date if stamps.creation_time is not None else None
            stamps.access_time = stamps.modification_time = stamps.attribute_change_time = date
