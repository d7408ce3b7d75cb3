"""The record of an evaluation, `SPLIT.json`, and the digest of its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rvlr import config, files, provenance
from rvlr.data.records import Split
from rvlr.evaluation import headlines, rankings
from rvlr.evaluation.inputs import Result
from rvlr.evaluation.protocols import SCENES
from rvlr.log import result

MEASURED = ("counts", "notes", "protocols", "judgements", "diagnostics")
"""The keys of the record that say what was measured, not how. Records without judgements lack these; those of features,
and older ones, lack diagnostics."""


def numbers_sha256(record: Mapping[str, Any]) -> str:
    """The digest of what was measured, which the record keeps at `outputs.numbers_sha256`."""
    return provenance.digest({key: record[key] for key in MEASURED if key in record})


def write(
    output: Path,
    run: str,
    seed: int,
    split: Split,
    split_file: Path,
    section: config.Scoring,
    inputs: Mapping[str, Any],
    results: Mapping[str, Result],
    numbers: Mapping[str, Mapping[str, float]],
    judgements: Mapping[str, Mapping[str, float]],
    diagnostics: Mapping[str, float] | None = None,
) -> None:
    """Write `rankings.npz`, of protocol `corrected`, and the record with the digest of it.

    run, seed: of what was evaluated. inputs: digests by name. results: by protocol, on the whole split.
    numbers: protocol -> name -> value, those of subsets too. judgements: people's judgements -> name -> value, see
    `rvlr.evaluation.judged`. diagnostics: name -> value, of models.
    """
    about = files.read_json(split_file.parent / "dataset.json")
    rankings_file = output / "rankings.npz"
    rankings.write(rankings_file, split, results["corrected"], results.get(SCENES))
    record: dict[str, Any] = {
        "run": run,
        "seed": seed,
        "split": split.name,
        "counts": {"images": len(split.records), "captions": len(split.captions)},
        "notes": about.get("notes", []),
        "protocols": numbers,
        **({"judgements": judgements} if judgements else {}),
        **({} if diagnostics is None else {"diagnostics": diagnostics}),
        "config": section.model_dump(mode="json"),
        "inputs": {"split_checksum": split.checksum, **inputs},
        "provenance": provenance.collect(),
    }
    record["outputs"] = {"rankings_sha256": provenance.sha256(rankings_file), "numbers_sha256": numbers_sha256(record)}
    files.write_json(output / f"{split.name}.json", record)
    result("%s", headlines.line(numbers["corrected"]))
