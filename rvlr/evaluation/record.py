"""The numbers in the record of an evaluation, `SPLIT.json`, and their digest."""

from collections.abc import Mapping
from typing import Any

from rvlr import provenance

MEASURED = ("counts", "notes", "protocols", "diagnostics")
"""The keys of the record that say what was measured, not how. Older records lack the last one."""


def numbers_sha256(record: Mapping[str, Any]) -> str:
    """The digest of what was measured, which the record keeps at `outputs.numbers_sha256`."""
    return provenance.digest({key: record[key] for key in MEASURED if key in record})
