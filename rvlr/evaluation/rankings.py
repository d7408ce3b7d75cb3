"""`rankings.npz`: the first items of every query's list and the values of every query, written and read here alone.

With it, figures, sheets and comparisons need no model. It has the arrays, for N images, C captions, Q queries:

    image_ids (N,), caption_ids (C,)   see `Split.caption_ids`
    DIRECTION_query (Q,)               the queries, as indices of images or captions
    DIRECTION (Q, depth)               what was found, best first, as indices; in mixed lists captions follow images
    DIRECTION_score (Q, depth)
    per_query/DIRECTION_query (Q,)     the queries that have a value
    per_query/NAME (Q,)                their values, of all numbers in `PER_QUERY`; of a model also
                                       `DIRECTION_rank`, and of mixed lists by other scales
    scenes/per_query/...               the same of protocol `corrected/scenes`, if that was measured
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from rvlr import files
from rvlr.data.records import Split, image_of_caption
from rvlr.errors import UserError
from rvlr.evaluation.inputs import PER_QUERY, Result

SCENES = "scenes/"
TOLERANCE = 1e-3
"""Between a number and the mean of its values, which are float32; both in percent."""


@dataclass(frozen=True)
class Values:
    """The values of every query.

    images: how many there are. image_of: name of a number -> (Q,) int64, the image that each query is, or belongs to.
    values: name -> (Q,) float64, in percent. queries: the arrays that say which queries these are, by name.
    """

    images: int
    image_of: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    queries: dict[str, np.ndarray]


def write(path: Path, split: Split, result: Result, scenes: Result | None = None) -> None:
    """Write the rankings and values of a result on a split; of `scenes`, whose rankings are the same, the values."""
    arrays: dict[str, Any] = {"image_ids": np.array(_image_ids(split)), "caption_ids": np.array(split.caption_ids)}
    for direction, ranking in result.rankings.items():
        arrays[direction] = ranking.indices
        arrays[f"{direction}_query"] = ranking.queries
        arrays[f"{direction}_score"] = ranking.scores
    for prefix, one in (("", result), (SCENES, scenes)):
        if one is not None:
            arrays |= {f"{prefix}per_query/{name}": values for name, values in one.per_query.items()}
            arrays |= {f"{prefix}per_query/{direction}_query": queries for direction, queries in one.queries.items()}
    with files.atomic_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_lists(path: Path, split: Split, directions: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """direction -> the queries (Q,) and what was found for each of them (Q, depth), both as indices.

    Raises UserError naming the file if it is missing or not readable, or if it ranks another split.
    """
    arrays = _load(path, dict.fromkeys(directions, ("iu", 2)) | {f"{name}_query": ("iu", 1) for name in directions})
    if [arrays[name].tolist() for name in ("image_ids", "caption_ids")] != [_image_ids(split), split.caption_ids]:
        raise _fault(path, f"ranks other data than the split {split.name!r}")
    return {name: (arrays[f"{name}_query"], arrays[name]) for name in directions}


def read_values(path: Path, numbers: Mapping[str, float], prefix: str = "") -> Values:
    """The values of every query; numbers: those of the evaluation beside the file, protocol `corrected`, or protocol
    `corrected/scenes` with the prefix `SCENES`.

    Raises UserError naming the file if it is missing or not readable, if values are not finite or do not fit their
    queries, or if they do not average to `numbers`.
    """
    wanted = {prefix + _query(name): ("iu", 1) for name in PER_QUERY}
    wanted |= {f"{prefix}per_query/{name}": ("f", 1) for name in PER_QUERY}
    arrays = {name.removeprefix(prefix): array for name, array in _load(path, wanted).items()}
    indices = {image: index for index, image in enumerate(arrays["image_ids"].tolist())}
    owners = [indices.get(image_of_caption(caption), -1) for caption in arrays["caption_ids"].tolist()]
    if -1 in owners:
        raise _fault(path, f"caption {arrays['caption_ids'][owners.index(-1)]} is of no image in image_ids")
    image_of = {"i": np.arange(len(arrays["image_ids"])), "t": np.array(owners, dtype=np.int64)}
    found: dict[str, np.ndarray] = {}
    for name in PER_QUERY:
        query, values = arrays[_query(name)], arrays[f"per_query/{name}"].astype(np.float64)
        count = len(image_of[name[0]])
        if not len(query) or len(query) != len(values):
            raise _fault(path, f"{name}: {len(values)} values for {len(query)} queries")
        if query.min() < 0 or query.max() >= count:
            raise _fault(path, f"{_query(name)} has queries beyond the {count} there are")
        if not np.isfinite(values).all():
            raise _fault(path, f"{name}: the value of query {query[~np.isfinite(values)][0]} is not a finite number")
        if abs(values.mean() - numbers[name]) > TOLERANCE:
            raise _fault(
                path, f"{name} averages to {values.mean():.3f}, the evaluation beside it has {numbers[name]:.3f}"
            )
        found[name] = values
    return Values(
        images=len(arrays["image_ids"]),
        image_of={name: image_of[name[0]][arrays[_query(name)]] for name in PER_QUERY},
        values=found,
        queries={name: array for name, array in arrays.items() if name.endswith(("_ids", "_query"))},
    )


def _load(path: Path, wanted: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """The ids and the arrays wanted, each of one of the kinds of values and of the number of dimensions given."""
    wanted = {"image_ids": ("U", 1), "caption_ids": ("U", 1), **wanted}
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in wanted}
    except FileNotFoundError:
        raise _fault(path, "no such file") from None
    except (BadZipFile, zlib.error, OSError, KeyError, ValueError, EOFError, TypeError) as error:
        raise _fault(path, f"not the rankings of a run ({error})") from None
    for name, (kinds, dimensions) in wanted.items():
        if arrays[name].dtype.kind not in kinds or arrays[name].ndim != dimensions:
            raise _fault(path, f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}")
    return arrays


def _image_ids(split: Split) -> list[str]:
    return [record.image_id for record in split.records]


def _query(name: str) -> str:
    """The array with the queries of a number's values."""
    return f"per_query/{name.partition('_')[0]}_query"


def _fault(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; run the evaluate stage again")
