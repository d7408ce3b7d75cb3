"""Relevance: how well each image of a split answers each caption, the gain behind every NDCG.

Enters: a split. Leaves: a float32 matrix (captions, images) as a memory-mappable .npy, and a .json
beside it that says how and from which captions it was made, and its shape and checksum. docs/METHOD.md,
"Evaluation", point "Relevance": ROUGE-L between a caption and the captions of an image, the best of them.

The longest common subsequences come from rapidfuzz, which compares strings: every word becomes one character, so that
a caption becomes a short string.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.tokenize import tokenize

from rvlr import arrays, config, environment, files, ownership, provenance
from rvlr.data.records import Split
from rvlr.datasets import shapes
from rvlr.datasets.shapes.similarity import similarity
from rvlr.errors import UserError, show
from rvlr.log import Progress, logger, result

Tokens = tuple[str, ...]
CAPTIONS_AT_ONCE = 128
BETA = 1.2
SCENES = "scenes"  # what the .json names as the scorer of a matrix by scenes
MOST_WITHOUT_WORDS = 0.01  # of a split's captions; among the 65,090 of the public val and test splits there is none
_SURROGATES = range(0xD800, 0xE000)


def write(split: Split, section: config.Relevance, output: Path) -> None:
    """Write the relevance matrix of a split to `output` (.npy) and what made it to the .json beside it.

    Raises UserError for captions that the scorer cannot compare, see `check_words`, or if the disk is too small.
    """
    check_words(split, section)
    clear(output)
    compute(split.captions, split.offsets, output, section.scorer, section.stemmer)
    describe(split, section, output)


def write_scenes(split: Split, section: config.Shapes, output: Path) -> None:
    """Write the relevance of a split by its scenes, in the same form: `rel(c, j)` is how much the scenes of caption c's
    image and of image j have in common, whatever the caption says of its own.

    section: what the split was made with. Raises UserError if the split is another one, or if the disk is too small.
    """
    scenes = shapes.scenes_of(section, split)
    clear(output)
    progress, counts, first = Progress("scene relevance", len(scenes), "images"), np.diff(split.offsets), 0
    with files.atomic_file(output) as temporary:
        matrix = arrays.create(temporary, (len(split.captions), len(scenes)))
        for rows in similarity(scenes):
            last = first + len(rows)
            matrix[split.offsets[first] : split.offsets[last]] = np.repeat(rows, counts[first:last], axis=0)
            progress.update(first := last)
        matrix.flush()
    _describe(split, output, {"scorer": SCENES})


def outputs(output: Path) -> list[Path]:
    """The matrix at `output` and the description beside it. Raises UserError if `output` is no .npy."""
    if output.suffix != ".npy":
        raise UserError(f"{output}: the matrix is written as .npy; give an output with that ending")
    return [output, output.with_suffix(".json")]


def clear(output: Path) -> None:
    """Remove the .json beside `output`: an interrupted run must not leave the old description beside a new matrix.

    Raises UserError if `output` is no .npy, or if the .json is something else, such as the captions themselves.
    """
    _, about = outputs(output)
    ownership.check(about)
    about.unlink(missing_ok=True)


def describe(split: Split, section: config.Relevance, output: Path, **more: Any) -> None:
    """Write the .json beside the relevance matrix `output`, by which `read` checks that it belongs to a split."""
    _describe(split, output, {"scorer": section.scorer, "stemmer": section.stemmer}, **more)


def _describe(split: Split, output: Path, made: dict[str, Any], **more: Any) -> None:
    counts = np.diff(split.offsets)
    files.write_json(
        output.with_suffix(".json"),
        {
            **made,
            "captions_per_image": {"least": int(counts.min()), "most": int(counts.max())},
            "offsets": split.offsets.tolist(),
            "checksum": split.checksum,
            "matrix": arrays.describe(output),
            **more,
            "provenance": provenance.collect(),
        },
    )
    result("%s: %s captions x %s images", split.name, f"{len(split.captions):,}", f"{len(split.records):,}")


def read(path: Path, split: Split, by_scenes: bool = False) -> np.ndarray:
    """Memory-map the relevance matrix (captions, images) of a split, read-only.

    Raises UserError if the files are missing, were made from other captions than those of the split, by scenes where
    words are wanted or the other way round, or have changed since they were written.
    """
    try:
        about = files.read_json(path.with_suffix(".json"))
        if about.get("checksum") != split.checksum:
            raise UserError(f"{path}: made from other captions than those of the split {split.name!r}")
        if (about.get("scorer") == SCENES) != by_scenes:
            wanted, found = ("scenes", "words") if by_scenes else ("words", "scenes")
            raise UserError(f"{path}: relevance by {found} found, by {wanted} expected")
        return arrays.load(path, (len(split.captions), len(split.records)), about.get("matrix"))
    except UserError as error:
        raise UserError(f"{error}; run the relevance stage again") from None


def check_words(split: Split, section: config.Relevance, where: str = "captions") -> None:
    """Raise UserError if more than `MOST_WITHOUT_WORDS` of the captions have no words for the scorer, or no two images
    share a word: nothing is relevant to anything then. `where` is what the message names beside the split."""
    tokens = tokenise(split.captions, section.scorer, stemmer=False)
    has_words = _has_words_for_rouge if section.scorer == "rouge-score" else _has_words_for_coco
    without = [text for text, words in zip(split.captions, tokens, strict=True) if not has_words(text, words)]
    if without:
        examples = ", ".join(map(show, without[:3]))
        keeps, remedy = _REMEDIES[section.scorer]
        message = (
            f"{where}, {split.name}: {len(without):,} of {len(split.captions):,} captions have no words for the scorer "
            f"{section.scorer}, such as {examples}: it {keeps}"
        )
        if len(without) > MOST_WITHOUT_WORDS * len(split.captions):
            raise UserError(f"{message}; {remedy}")
        logger.warning("%s; their relevance means nothing", message)
    owner: dict[str, int] = {}
    owned = zip(tokenise(split.captions, section.scorer, section.stemmer), split.caption_image.tolist(), strict=True)
    if not any(owner.setdefault(word, image) != image for words, image in owned for word in words):
        raise UserError(
            f"{where}, {split.name}: no two of {len(split.records)} images have a word of their captions in common, so "
            "no image is relevant to another and NDCG is not defined; the split needs more images, or more words"
        )


_REMEDIES = {
    "rouge-score": (
        "keeps only a-z and 0-9",
        "set evaluation.relevance.scorer to coco-caption, or write the captions in Latin letters",
    ),
    "coco-caption": (
        "takes what stands between spaces for a word",
        "put spaces between the words of the captions, or correct the captions",
    ),
}


def _has_words_for_rouge(caption: str, words: Tokens) -> bool:
    """Whether at least half of the letters and digits survive; those of "2 кота" do not."""
    return len(words) > 0 and 2 * sum(map(len, words)) >= sum(map(str.isalnum, caption))


def _has_words_for_coco(caption: str, words: Tokens) -> bool:
    """False for blank captions, and for Chinese, Japanese, Thai and the like without spaces: one word a caption."""
    filled = [word for word in words if word.strip()]
    return len(filled) > 1 or (len(filled) == 1 and not any(unicodedata.category(sign) == "Lo" for sign in filled[0]))


def compute(captions: Sequence[str], offsets: np.ndarray, output: Path, scorer: str, stemmer: bool) -> None:
    """Write the relevance matrix, float32 (captions, images), to `output`.

    Image i has the captions `offsets[i]` to `offsets[i + 1] - 1`, at least one. Scorers:

    - `rouge-score`: the F-measure of the package rouge_score, 2PR / (P + R), and the best over the image's captions,
      bit for bit. A caption without a token has relevance 0 to everything, itself included.
    - `coco-caption`: what `Rouge.calc_score` of pycocoevalcap gives for the caption as candidate and the image's
      captions as references, split at single spaces, as they are: the best precision and the best recall, perhaps of
      two different references, joined to (1 + b^2) PR / (R + b^2 P) with b = 1.2. `stemmer` must be False.

    Memory beside the mapped file: about 10 bytes per caption times `CAPTIONS_AT_ONCE` captions, twice that for
    `coco-caption`. Raises UserError for an image without captions, or if the disk is too small.
    """
    _check_offsets(offsets, len(captions))
    sequences = tokenise(captions, scorer, stemmer)
    position: dict[Tokens, int] = {}
    member = np.array([position.setdefault(tokens, len(position)) for tokens in sequences])
    strings = encode(list(position))
    lengths = np.array([len(string) for string in strings])
    score = _score_rouge if scorer == "rouge-score" else _score_coco
    dtype = np.min_scalar_type(int(lengths.max()))
    same = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    progress, threads = Progress("relevance", len(strings), "captions"), environment.threads()
    with files.atomic_file(output) as temporary:
        matrix = arrays.create(temporary, (len(captions), len(offsets) - 1))
        for start in range(0, len(strings), CAPTIONS_AT_ONCE):
            stop = min(start + CAPTIONS_AT_ONCE, len(strings))
            lcs = cdist(strings[start:stop], strings, scorer=LCSseq.similarity, dtype=dtype, workers=threads)
            rows = score(lcs[:, member], lengths[start:stop], lengths[member], offsets[:-1])
            repeats = [len(group) for group in same[start:stop]]
            matrix[np.concatenate(same[start:stop])] = np.repeat(rows, repeats, axis=0)
            progress.update(stop)
        matrix.flush()


def compute_pair(caption: str, references: Sequence[str], scorer: str, stemmer: bool) -> float:
    """The relevance of one caption to one image with the captions `references`; scorers as in `compute`."""
    strings = encode(tokenise([caption, *references], scorer, stemmer))
    lengths = np.array([len(string) for string in strings])
    lcs = cdist(strings[:1], strings[1:], scorer=LCSseq.similarity)
    score = _score_rouge if scorer == "rouge-score" else _score_coco
    return float(score(lcs, lengths[:1], lengths[1:], np.array([0]))[0, 0])


def tokenise(captions: Sequence[str], scorer: str, stemmer: bool) -> list[Tokens]:
    """The tokens of every caption, by the scorer's own rule; equal captions and equal words are handled once."""
    distinct = dict.fromkeys(captions)
    if scorer == "rouge-score":
        tokens = {caption: tuple(tokenize(caption, None)) for caption in distinct}
    elif scorer == "coco-caption":
        tokens = {caption: tuple(caption.split(" ")) for caption in distinct}
    else:
        raise UserError(f"scorer: {scorer!r} found; 'rouge-score' or 'coco-caption' allowed")
    if stemmer:
        if scorer != "rouge-score":
            raise UserError(f"stemmer: true, but scorer {scorer!r} has no stemmer; set stemmer to false")
        from rouge_score.tokenizers import DefaultTokenizer  # a second to import

        # rouge_score stems token by token, hence a word alone gives what it gives inside a caption
        stem = DefaultTokenizer(use_stemmer=True).tokenize
        stems = {word: stem(word) for words in tokens.values() for word in words}
        tokens = {caption: tuple(part for word in words for part in stems[word]) for caption, words in tokens.items()}
    return [tokens[caption] for caption in captions]


def encode(sequences: Sequence[Tokens]) -> list[str]:
    """One string a sequence, one character a word; surrogates are no characters and stay unused.

    Frequent words get small code points, for which rapidfuzz has a table instead of a hash map: a third of the time.
    """
    counts = Counter(word for tokens in sequences for word in tokens)
    characters = {}
    for code, (word, _) in enumerate(counts.most_common()):
        characters[word] = chr(code if code < _SURROGATES.start else code + len(_SURROGATES))
    return ["".join(characters[word] for word in tokens) for tokens in sequences]


def _check_offsets(offsets: np.ndarray, captions: int) -> None:
    empty = np.flatnonzero(np.diff(offsets) < 1)
    if len(empty):
        raise UserError(f"image {empty[0]} (counted from 0) has no caption; give every image at least one")
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != captions:
        raise UserError(f"offsets: they must run from 0 to the number of captions, {captions}, for one image or more")


def _score_rouge(lcs: np.ndarray, lengths: np.ndarray, reference_lengths: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """rouge-score of candidates (B,) and images (N,), float32, from the LCS with all captions, (B, C).

    2PR / (P + R) with P = l / m, R = l / n is 2l / (m + n). One division in float32 gives the float32 nearest to
    that fraction, and so does rouge_score's arithmetic in double precision: fractions with such denominators are much
    farther from the middle of two neighbouring float32 than its rounding errors.
    """
    sums = np.maximum(lengths[:, None].astype(np.float32) + reference_lengths.astype(np.float32), 1)
    measure = np.multiply(lcs, 2, dtype=np.float32)
    return np.maximum.reduceat(np.divide(measure, sums, out=measure), starts, axis=1)


def _score_coco(lcs: np.ndarray, lengths: np.ndarray, reference_lengths: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """coco-caption's score of candidates (B,) and images (N,), float64, from the LCS with all captions, (B, C)."""
    precision = np.maximum.reduceat(lcs, starts, axis=1) / lengths[:, None]
    recall = np.maximum.reduceat(lcs / reference_lengths, starts, axis=1)
    joined = recall + BETA**2 * precision
    # the best precision is 0 only if the best recall is
    score: np.ndarray = (1 + BETA**2) * precision * recall / np.where(joined > 0, joined, 1)
    return score
