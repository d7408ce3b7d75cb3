"""People's judgements: hand-worked cases, slow versions written query by query, and the package of ECCV Caption, on the
real files and on made-up ones, sound and damaged."""

import csv
import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rvlr.config.sources import CXC, SOURCES
from rvlr.data.records import Record, Split
from rvlr.datasets.annotations import read_captions
from rvlr.errors import UserError
from rvlr.evaluation import judged
from rvlr.evaluation.inputs import NOT_A_CANDIDATE, Inputs
from rvlr.judgements import coco, correlation, cxc, eccv

HEADERS = {kind: ",".join(columns) for kind, columns in cxc._COLUMNS.items()}
Rows = Sequence[tuple[str, str, float, str]]


def image(number: int) -> str:
    return f"COCO_val2014_{number:012d}.jpg"


def caption(number: int) -> str:
    return f"COCO_val2014:sentid:{number}"


def write(folder: Path, part: str = "test", **rows: Rows) -> Path:
    """Rating files with these rows."""
    folder.mkdir(exist_ok=True)
    for kind in cxc.KINDS:
        lines = [",".join(map(str, row)) for row in rows[kind]]
        (folder / f"{kind}_{part}.csv").write_text("\n".join([HEADERS[kind], *lines]) + "\n")
    return folder


def made_up_split(images: int, captions: int = 5) -> Split:
    """Images 1, 2, ... of COCO; caption k of image i has the id 10 i + k."""
    records = [
        Record(f"val2014/{i}", f"val2014/{image(i)}", tuple(f"caption {k} of {i}" for k in range(captions)))
        for i in range(1, images + 1)
    ]
    return Split("test", records, Path())


def originals(images: int) -> Rows:
    """One pair of each caption and its image; the ids of an image in no order."""
    return [(caption(10 * i + k), image(i), 5.0, "c2i_original") for i in range(1, images + 1) for k in (3, 0, 4, 1, 2)]


def made_up_inputs(split: Split, width: int = 8, candidates: int = 3, seed: int = 0) -> Inputs:
    """Random embeddings, in which captions resemble their image, and match logits of some candidates."""
    rng = np.random.default_rng(seed)
    owner, n = split.caption_image, len(split.records)
    images = rng.standard_normal((n, width)).astype(np.float32)
    texts = (images[owner] + rng.standard_normal((len(owner), width))).astype(np.float32)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]
    cosines = unit[0] @ unit[1].T

    def logits(cosines: np.ndarray) -> np.ndarray:
        last = np.sort(cosines, axis=1)[:, -candidates, None]
        noisy = 5 * cosines + rng.standard_normal(cosines.shape)
        return np.where(cosines >= last, noisy, NOT_A_CANDIDATE).astype(np.float32)

    scores = logits(cosines), logits(cosines.T)
    return Inputs(images, texts, *scores, np.zeros(cosines.T.shape, dtype=np.float32), owner)


def turned(*degrees: float) -> np.ndarray:
    """Embeddings in the plane, which are the more alike the nearer their angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def measured(folder: Path, inputs: Inputs, split: Split, sis: Rows, sts: Rows, sits: Rows) -> dict[str, float]:
    return judged.recalls(inputs, cxc.read(write(folder, sis=sis, sts=sts, sits=sits), split))


def planar(images: np.ndarray, texts: np.ndarray, split: Split) -> Inputs:
    shape = (len(images), len(texts))
    logits = np.full(shape, NOT_A_CANDIDATE, dtype=np.float32)
    logits[:, 0] = 1
    scores = np.full(shape[::-1], NOT_A_CANDIDATE, dtype=np.float32)
    scores[:, 0] = 1
    return Inputs(images, texts, logits, scores, np.zeros(shape[::-1], dtype=np.float32), split.caption_image)


SIS, STS = [(image(1), image(2), 2.4, "i"), (image(1), image(3), 2.5, "i")], [(caption(10), caption(20), 2.9, "c")]


# --- hand-worked cases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "queries", "first"),
    [
        # image 1 sees 2, 3, 4 in this order: 3 and 4 are right, 3 is second; 3 sees 2, 1, 4; 4 sees 3, 2, 1
        ([], 3, 0),
        # now 1 and 2 are right for each other and nearest to each other, 3 and 4 miss as before
        ([(image(2), image(1), 3, "i")], 4, 50),
    ],
)
def test_images_find_images_without_themselves(more: Rows, queries: int, first: float, tmp_path: Path) -> None:
    split = made_up_split(4)
    inputs = planar(turned(0, 10, 25, 90), turned(*range(0, 200, 10)), split)
    sis = [*SIS, (image(4), image(1), 5, "i"), *more]
    found = measured(tmp_path, inputs, split, sis, [(caption(10), caption(20), 3, "c"), *STS], originals(4))
    assert (found["i2i_queries"], found["i2i_r@1"], found["i2i_r@5"]) == (queries, first, 100)


@pytest.mark.parametrize(("rating", "first"), [(2.9, 30), (3.0, 50)])
def test_texts_find_texts_of_their_image_or_rated(rating: float, first: float, tmp_path: Path) -> None:
    """Nearest are: 0 and 5, 40 and 50 each other, 80 has 50, 161 and 200 each other, all of different images; 120 has
    80, 240 has 200 or 280, 280 has 240, of the same image. The rating joins 0 and 5."""
    split = made_up_split(2)
    inputs = planar(turned(0, 90), turned(0, 40, 80, 120, 161, 5, 50, 200, 240, 280), split)
    sts = [(caption(20), caption(10), rating, "c"), (caption(14), caption(21), 4, "c")]
    found = measured(tmp_path, inputs, split, [(image(1), image(2), 5, "i"), *SIS[:1]], sts, originals(2))
    assert (found["t2t_queries"], found["t2t_r@1"]) == (10, first)
    # 14 at 161 and 21 at 50 do not find each other first
    assert (found["t2t_rated_queries"], found["t2t_rated_r@1"]) == ((4, 50) if rating == 3 else (2, 0))


@pytest.mark.parametrize(("rating", "first"), [(2.9, 50), (3, 100)])
def test_images_find_texts_by_match_logit(rating: float, first: float, tmp_path: Path) -> None:
    split = made_up_split(2)
    inputs = planar(turned(0, 90), turned(*range(0, 100, 10)), split)
    inputs.scores_i2t[:] = NOT_A_CANDIDATE
    inputs.scores_i2t[0, [5, 0]] = 3, 1  # the first caption of image 2 comes before the first of its own
    inputs.scores_i2t[1, 6] = 2
    sits = [*originals(2), (caption(20), image(1), rating, "c2i_intrasim")]
    found = measured(
        tmp_path,
        inputs,
        split,
        [(image(1), image(2), 5, "i"), *SIS[:1]],
        [*STS, (caption(10), caption(20), 3, "c")],
        sits,
    )
    assert (found["i2t_queries"], found["i2t_r@1"], found["i2t_r@5"]) == (2, first, 100)


def test_the_gallery_has_the_captions_that_were_judged(tmp_path: Path) -> None:
    """A sixth caption, equal to the query, is not in the list."""
    split = made_up_split(2, captions=6)
    near = [0, 40, 80, 120, 160, 0, 5, 100, 200, 240, 280, 5]
    found = measured(
        tmp_path, planar(turned(0, 90), turned(*near), split), split, [(image(1), image(2), 5, "i"), *SIS[:1]],
        [(caption(10), caption(20), 3, "c"), *STS], originals(2),
    )  # fmt: skip
    assert found["t2t_queries"] == 10
    assert found["t2t_rated_r@1"] == 100


def test_precision_of_rankings_by_hand() -> None:
    hits = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=bool)
    counts = np.array([3, 2, 1])
    assert judged.r_precision(hits, counts) == pytest.approx([2 / 3, 1 / 2, 0])
    assert judged.average_precision_at_r(hits, counts) == pytest.approx([(1 + 2 / 3) / 3, (1 / 2) / 2, 0])


# --- rank correlation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [3, 1000])
def test_spearman_is_that_of_scipy(levels: int) -> None:
    rng = np.random.default_rng(levels)
    first = rng.integers(levels, size=200) / 7
    second = first + rng.random(200)
    assert correlation.spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_a_correlation_with_nothing_but_equal_values_is_refused() -> None:
    with pytest.raises(UserError, match="not defined where all values are equal"):
        correlation.spearman(np.ones(4), np.arange(4))


def test_each_sample_has_half_of_the_queries_and_one_pair_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.array([7, 7, 7, 8, 9, 9]), np.array([8, 9, 10, 10, 10, 11])  # five queries
    of_query = {query: {p for p in range(6) if query in (first[p], second[p])} for query in range(7, 12)}
    seen: list[list[int]] = []
    monkeypatch.setattr(correlation, "spearman", lambda pairs, _: seen.append(pairs.astype(int).tolist()) or 0.5)
    found = correlation.sampled_spearman([first, second], np.arange(6.0), np.zeros(6), samples=500)
    assert found == (0.5, 0)
    assert {len(pairs) for pairs in seen} == {3}

    def stands_for_queries(pairs: list[int], left: frozenset[int]) -> bool:
        """Whether the pairs can be those of different queries."""
        if not pairs:
            return True
        ends = [query for query in left if pairs[0] in of_query[query]]
        return any(stands_for_queries(pairs[1:], left - {query}) for query in ends)

    assert all(stands_for_queries(pairs, frozenset(of_query)) for pairs in seen)
    counts = np.bincount(np.concatenate(seen), minlength=6) / 1500
    chances = [sum((p in pairs) / len(pairs) for pairs in of_query.values()) / 5 for p in range(6)]
    assert counts == pytest.approx(chances, abs=0.04)


def test_sampled_spearman_where_no_item_is_in_two_pairs() -> None:
    rng = np.random.default_rng(1)
    ratings = rng.random(4000)
    similarities = ratings + rng.standard_normal(4000)
    mean, deviation = correlation.sampled_spearman([np.arange(4000)], ratings, similarities, samples=300)
    assert mean == pytest.approx(stats.spearmanr(ratings, similarities).statistic, abs=0.005)
    # of half of 4,000 pairs, drawn without replacement
    assert deviation == pytest.approx((1 - mean**2) / 2000**0.5 * 0.5**0.5, rel=0.25)


# --- the slow version ----------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[tuple[str, str, float]]:
    with path.open() as stream:
        return [(row["0"], row["1"], float(row["2"])) for row in csv.DictReader(stream, fieldnames=list("0123"))
                if row["2"] != "agg_score"]  # fmt: skip


def slow_cxc(folder: Path, inputs: Inputs, images: dict[str, int], captions: dict[str, int]) -> dict[str, float]:
    """The recalls, query by query; images, captions: the index of each by its name."""
    right: dict[str, dict[int, set[int]]] = {way: defaultdict(set) for way in ("i2t", "t2i", "i2i", "t2t", "t2t_rated")}
    for first, second, rating in rows_of(folder / "sis_test.csv"):
        if rating >= 2.5:
            right["i2i"][images[first]].add(images[second])
            right["i2i"][images[second]].add(images[first])
    for first, second, rating in rows_of(folder / "sts_test.csv"):
        if rating >= 3:
            for way in ("t2t", "t2t_rated"):
                right[way][captions[first]].add(captions[second])
                right[way][captions[second]].add(captions[first])
    for first, second, rating in rows_of(folder / "sits_test.csv"):
        if rating >= 3:
            right["i2t"][images[second]].add(captions[first])
            right["t2i"][captions[first]].add(images[second])
    mates = defaultdict(list)
    for one in captions.values():
        mates[inputs.caption_image[one]].append(one)
    for picture, own in mates.items():
        right["i2t"][picture].update(own)
        for one in own:
            right["t2i"][one].add(picture)
            right["t2t"][one].update(set(own) - {one})
    units = {"i": inputs.image_embeds, "t": inputs.text_embeds}
    units = {
        key: (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float64) for key, rows in units.items()
    }
    gallery = {"i": list(images.values()), "t": list(captions.values())}
    numbers = {}
    for way, positives in right.items():
        logits = {"i2t": inputs.scores_i2t, "t2i": inputs.scores_t2i}.get(way)
        admitted = np.isin(np.arange(len(units[way[2]])), gallery[way[2]])
        ranks = []
        for query, items in positives.items():
            if not items:
                continue
            scores = units[way[2]] @ units[way[0]][query]
            if logits is not None:
                known = logits[query] > NOT_A_CANDIDATE
                scores = np.where(known, 1000 + logits[query], scores)
            wrong = admitted.copy()
            wrong[list(items)] = False
            if way[0] == way[2]:
                wrong[query] = False
            best = max(scores[item] for item in items)
            ranks.append(1 + int((scores[wrong] >= best).sum()))
        numbers[f"{way}_queries"] = len(ranks)
        numbers |= {f"{way}_r@{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    return numbers


def close_to(found: dict[str, float], slow: dict[str, float]) -> None:
    assert {name: found[name] for name in slow} == pytest.approx(slow, abs=1e-4)


def test_made_up_ratings_are_as_the_slow_version_has_them(tmp_path: Path) -> None:
    split, rng = made_up_split(12), np.random.default_rng(3)
    ids = [10 * i + k for i in range(1, 13) for k in range(5)]

    def rated(name: Callable[[int], str], of: list[int], count: int) -> Rows:
        drawn = [rng.choice(of, 2, replace=False) for _ in range(count)]
        return [(name(a), name(b), round(rng.uniform(0, 5), 2), "drawn") for a, b in drawn]

    sits = [(caption(rng.choice(ids)), image(rng.integers(1, 13)), round(rng.uniform(0, 5), 2), "x") for _ in range(40)]
    folder = write(
        tmp_path / "cxc",
        sis=rated(image, list(range(1, 13)), 25),
        sts=rated(caption, ids, 60),
        sits=[*originals(12), *sits],
    )
    inputs = made_up_inputs(split)
    slow = slow_cxc(
        folder, inputs, {image(i): i - 1 for i in range(1, 13)}, {caption(one): place for place, one in enumerate(ids)}
    )
    found = judged.recalls(inputs, cxc.read(folder, split))
    close_to(found, slow)
    assert len({found[f"{way}_r@1"] for way in ("i2t", "t2i", "i2i", "t2t", "t2t_rated")}) > 2
    within = judged.recalls(inputs, cxc.read(folder, split), across=False)
    assert within == {name: value for name, value in found.items() if not name.startswith(("i2t", "t2i"))}


# --- the real files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coco_test(shared: Path) -> Split:
    return read_captions(shared / "data/captions/coco_test.json", coco.CAPTIONS)


@pytest.fixture(scope="module")
def real(shared: Path, coco_test: Split) -> cxc.Judgements:
    return cxc.read(shared / "data/cxc", coco_test)


def names_of(split: Split) -> tuple[dict[str, int], dict[str, int]]:
    """The index of every image and caption of COCO test by its name in CxC."""
    listed = eccv.sentence_ids()
    images = {Path(record.image).name: place for place, record in enumerate(split.records)}
    captions = {
        caption(one): 5 * place + k
        for place, record in enumerate(split.records)
        for k, one in enumerate(listed[coco.image_number(record.image) or 0])
    }
    return images, captions


def part_of(folder: Path, shared: Path, split: Split, count: int) -> tuple[Split, Path]:
    """The real ratings of pairs among images that are rated with each other, and the split of these images."""
    images, captions = names_of(split)
    owner = {name: place // 5 for name, place in captions.items()} | images
    files = {kind: (shared / f"data/cxc/{kind}_test.csv").read_text().splitlines() for kind in cxc.KINDS}
    joined = defaultdict(set)
    for line in files["sis"][1:]:
        first, second = line.split(",")[:2]
        joined[images[first]].add(images[second])
        joined[images[second]].add(images[first])
    chosen, waiting = [0], [0]
    while len(chosen) < count:
        for one in sorted(joined[waiting.pop(0)]):
            if one not in chosen and len(chosen) < count:
                chosen.append(one)
                waiting.append(one)
    folder.mkdir()
    for kind, lines in files.items():
        kept = [line for line in lines[1:] if {owner[name] for name in line.split(",")[:2]} <= set(chosen)]
        (folder / f"{kind}_test.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    return Split("test", [split.records[one] for one in chosen], split.image_root), folder


def test_part_of_the_real_ratings_is_as_the_slow_version_has_it(tmp_path: Path, shared: Path, coco_test: Split) -> None:
    split, folder = part_of(tmp_path / "cxc", shared, coco_test, 150)
    inputs = made_up_inputs(split, candidates=10)
    found = judged.by_cxc(inputs, cxc.read(folder, split))
    images, captions = names_of(split)
    close_to(found, slow_cxc(folder, inputs, images, captions))
    assert found["i2i_queries"] > 80
    unit = {name: inputs.image_units[one] for name, one in images.items()}
    unit |= {name: inputs.text_units[one] for name, one in captions.items()}
    place = images | captions
    for kind, sides in {"sis": (0, 1), "sts": (0, 1), "sits": (1,)}.items():
        rows = rows_of(folder / f"{kind}_test.csv")
        queries = [np.array([place[row[side]] for row in rows]) for side in sides]
        cosines = np.array([unit[row[0]] @ unit[row[1]] for row in rows])
        wanted = correlation.sampled_spearman(queries, np.array([row[2] for row in rows]), cosines)
        close_to(found, {f"{kind}_spearman": 100 * wanted[0], f"{kind}_spearman_std": 100 * wanted[1]})
    within = judged.by_cxc(inputs, cxc.read(folder, split), across=False)
    assert within == {name: value for name, value in found.items() if not name.startswith(("i2t", "t2i", "sits"))}


def test_ids_of_captions_are_those_of_karpathys_file(shared: Path, coco_test: Split, real: cxc.Judgements) -> None:
    """The package lists them, the pairs of an image and its own caption have them; both agree on all 25,000."""
    numbers = [coco.image_number(record.image) for record in coco_test.records]
    listed = eccv.sentence_ids()
    assert list(listed) == numbers
    own = real.sits.sampling == cxc.ORIGINAL
    assert (real.sits.first[own] // 5 == real.sits.second[own]).all()
    assert sorted(real.sits.first[own].tolist()) == list(range(25_000))
    found = defaultdict(list)
    for name, picture, _ in rows_of(shared / "data/cxc/sits_test.csv")[-25_000:]:
        found[coco.image_number(picture)].append(int(name.rpartition(":")[2]))
    assert {number: sorted(ids) for number, ids in found.items()} == {n: list(ids) for n, ids in listed.items()}


def test_without_the_package_the_ratings_are_read_the_same(
    shared: Path, coco_test: Split, real: cxc.Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eccv, "find_spec", lambda name: None)
    alone = cxc.read(shared / "data/cxc", coco_test)
    for kind in cxc.KINDS:
        for name, values in vars(getattr(real, kind)).items():
            assert np.array_equal(values, getattr(getattr(alone, kind), name))


def test_another_order_of_captions_agrees_less_with_people(coco_test: Split, real: cxc.Judgements) -> None:
    """What shows that the k-th caption of an image has its k-th id: texts are nowhere beside ids."""
    words = [set(text.lower().split()) for text in coco_test.captions]
    pairs = np.flatnonzero(real.sts.sampling == "c2c_cocaption")

    def agreement_of(order: Sequence[int]) -> float:
        first, second = (
            side[pairs] // 5 * 5 + np.array(order)[side[pairs] % 5] for side in (real.sts.first, real.sts.second)
        )
        shared_words = [len(words[a] & words[b]) / len(words[a] | words[b]) for a, b in zip(first, second, strict=True)]
        return correlation.spearman(real.sts.ratings[pairs], np.array(shared_words))

    published = agreement_of([0, 1, 2, 3, 4])
    assert published > 0.4
    assert all(agreement_of(order) < published - 0.1 for order in ([1, 0, 2, 3, 4], [4, 3, 2, 1, 0], [1, 2, 3, 4, 0]))


def test_right_captions_of_cxc_are_those_that_the_package_has(coco_test: Split, real: cxc.Judgements) -> None:
    """Rated pairs alone, as the package counts them: of CxC and ECCV Caption the one data set that both publish."""
    file = Path(eccv._folder()) / "cxc_image_to_caption.json"
    wanted = {int(number): set(ids) for number, ids in json.loads(file.read_text()).items()}
    numbers = [coco.image_number(record.image) for record in coco_test.records]
    listed = eccv.sentence_ids()
    found = defaultdict(set)
    for first, second in judged._right(real.sits, judged.POSITIVE["sits"]).T.tolist():
        found[numbers[second]].add(listed[numbers[first // 5]][first % 5])
    assert found == wanted


@pytest.mark.slow
def test_all_real_ratings_are_as_the_slow_version_has_them(
    shared: Path, coco_test: Split, real: cxc.Judgements
) -> None:
    """All 5,000 images and 25,000 captions; embeddings and match logits are made up, the latter with many ties."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((5000, 16)).astype(np.float32)
    texts = (images[coco_test.caption_image] + 0.6 * rng.standard_normal((25_000, 16))).astype(np.float32)
    logits = np.full((5000, 25_000), NOT_A_CANDIDATE, dtype=np.float32)
    for k in range(3):
        logits[np.arange(5000), rng.integers(25_000, size=5000)] = k
        logits[rng.integers(5000, size=25_000), np.arange(25_000)] = k
    inputs = Inputs(
        images, texts, logits, logits.T, np.broadcast_to(np.float32(0), (25_000, 5000)), coco_test.caption_image
    )
    found = judged.by_cxc(inputs, real)
    slow = slow_cxc(shared / "data/cxc", inputs, *names_of(coco_test))
    assert {name: found[name] for name in slow} == pytest.approx(slow, abs=0.01)
    assert found["i2i_queries"] == 4791


# --- ECCV Caption --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eccv_is_as_the_package_has_it(coco_test: Split) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like to have ujson
        from eccv_caption._metrics import compute_eccv_metrics

    rng = np.random.default_rng(0)
    images = rng.standard_normal((5000, 24)).astype(np.float32)
    texts = (images[coco_test.caption_image] + rng.standard_normal((25_000, 24))).astype(np.float32)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]
    logits = (unit[0] @ unit[1].T).astype(np.float32)
    inputs = Inputs(
        images, texts, logits, logits.T, np.broadcast_to(np.float32(0), (25_000, 5000)), coco_test.caption_image
    )
    found = judged.by_eccv(inputs, eccv.read(coco_test))
    numbers = np.array([coco.image_number(record.image) for record in coco_test.records])
    ids = np.array([one for row in eccv.sentence_ids().values() for one in row])
    place = {"i2t": {n: i for i, n in enumerate(numbers.tolist())}, "t2i": {n: i for i, n in enumerate(ids.tolist())}}
    for way, name, items, scores in (
        ("i2t", "eccv_image_to_caption", ids, logits),
        ("t2i", "eccv_caption_to_image", numbers, logits.T),
    ):
        listed = json.loads((Path(eccv._folder()) / f"{name}.json").read_text())
        right = {int(query): list(map(int, values)) for query, values in listed.items()}
        ranked = {query: items[np.argsort(-scores[place[way][query]])].tolist() for query in right}
        wanted = compute_eccv_metrics(ranked, right)
        for metric, theirs in (("map@r", "eccv_map_at_r"), ("r-precision", "eccv_rprecision"), ("r@1", "eccv_r1")):
            assert found[f"{way}_{metric}"] == pytest.approx(100 * wanted[theirs], abs=1e-3), metric
        assert found[f"{way}_queries"] == len(right)
    assert 5 < found["i2t_map@r"] < 95


def test_eccv_refuses_other_images() -> None:
    with pytest.raises(UserError, match=r"test has 3 images, of which 0 are among the 5,000 COCO test images"):
        eccv.read(made_up_split(3))


# --- damaged files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("sis", f"{image(1)},{image(2)},3", r"sis_test.csv: 1 fault.*\n  line 4: 3 values found, 4 expected"),
        ("sis", f"{image(1)},{image(2)},3,i,more", "line 4: 5 values found, 4 expected"),
        ("sis", f"{image(1)},{image(2)},5.01,i", "line 4: agg_score: found '5.01', a number from 0 to 5 expected"),
        ("sis", f"{image(1)},{image(2)},-1,i", "line 4: agg_score: found '-1'"),
        ("sis", f"{image(1)},{image(2)},nan,i", "line 4: agg_score: found 'nan'"),
        ("sis", f"{image(1)},{image(2)},,i", "line 4: agg_score: found ''"),
        ("sis", f"{image(1)},{image(2)},٣,i", "line 4: agg_score: found '٣'"),
        ("sis", f"{image(1)},{image(2)},3,", "line 4: sampling_method: found ''"),
        ("sis", f"{image(1)},{image(1)},3,i", "line 4: .* is compared with itself"),
        ("sis", f"{image(1)},dog.jpg,3,i", "line 4: image2: found 'dog.jpg', an id such as COCO_val2014_"),
        ("sis", f"{image(1)},{image(9)},3,i", "line 4: image2: 9 is none of the items of the split 'test'"),
        ("sts", f"{caption(10)},{caption(99)},3,c", "line 4: caption2: 99 is none of the items of the split 'test'"),
        ("sts", f"{caption(10)},{image(1)},3,c", "line 4: caption2: found 'COCO_val2014_.*sentid:770337 expected"),
        ("sits", f"{image(1)},{caption(10)},3,c", "line 22: caption: found 'COCO_val2014_"),
        ("sits", f"{caption(19)},{image(1)},3,c2i_original", "6 captions of image 1 are known by id, and test has 5"),
        ("sis", '"open,b,3,i', "line 4: not sound CSV"),
        ("sis", "", "line 4: 0 values found"),
    ],
)
def test_damaged_rows_are_refused_with_their_line(kind: str, line: str, message: str, tmp_path: Path) -> None:
    split = made_up_split(4)
    folder = write(tmp_path, sis=SIS, sts=[STS[0], STS[0]], sits=originals(4))
    cxc.read(folder, split)
    with (folder / f"{kind}_test.csv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=message):
        cxc.read(folder, split)


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, sis=SIS, sts=STS, sits=originals(4))
    (folder / "sts_test.csv").write_text((folder / "sis_test.csv").read_text())
    with pytest.raises(UserError, match=r"line 1: found .* the columns must be caption1,caption2,agg_score"):
        cxc.read(folder, made_up_split(4))
    (folder / "sts_test.csv").write_text(HEADERS["sts"] + "\n")
    with pytest.raises(UserError, match="no ratings in it"):
        cxc.read(folder, made_up_split(4))


def test_images_that_are_not_of_coco_are_refused(tmp_path: Path) -> None:
    split = Split("test", [Record("a", "a.jpg", ("dog",) * 5), Record("b", "b.jpg", ("cat",) * 5)], Path())
    folder = write(tmp_path, sis=SIS, sts=STS, sits=originals(4))
    with pytest.raises(UserError, match=r"image 'a.jpg' is none of COCO's.*turn evaluation.judgements off"):
        cxc.read(folder, split)


def test_fewer_captions_than_were_judged_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, sis=SIS, sts=STS, sits=originals(4))
    with pytest.raises(UserError, match="test has 3 of its captions, but people judged the first 5"):
        cxc.read(folder, made_up_split(4, captions=3))


def test_files_of_val_are_read_like_those_of_test(tmp_path: Path) -> None:
    rows = {"sis": SIS, "sts": STS, "sits": originals(4)}
    with pytest.raises(UserError, match="no ratings of CxC in it"):
        cxc.paths(tmp_path)
    folder = write(tmp_path, part="val", **rows)
    assert len(cxc.read(folder, made_up_split(4)).sis.ratings) == 2
    write(tmp_path, part="test", **rows)
    with pytest.raises(UserError, match="the ratings of test and val; give a folder with those of one part"):
        cxc.read(folder, made_up_split(4))
    assert len(cxc.read(folder, made_up_split(4), "val").sis.ratings) == 2


@pytest.mark.parametrize("name", CXC)
def test_the_table_of_sources_has_the_published_files(name: str, shared: Path) -> None:
    origin = SOURCES[name].origin
    data = (shared / "data/cxc" / Path(SOURCES[name].file).name).read_bytes()
    assert origin.size == len(data)
    blob = b"blob %d\0" % len(data) + data
    assert origin.checksum == f"git:{hashlib.sha1(blob).hexdigest()}"
