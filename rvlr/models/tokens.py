"""Tokenizers from folders, and whether they belong to a model and to captions: a model would train on noise without any
error if its tokenizer were that of another model."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rvlr.errors import UserError
from rvlr.log import logger
from rvlr.models import hub, pretrained

_MOST_UNKNOWN = 0.5
"""Share of the captions' words. The vocabulary of a pretrained model spells any word of its languages from pieces, so
that nearly none is unknown; above this share most of the captions' content is lost."""
_NOTABLE = 0.05
_SPARE = 1024
"""Rows of an embedding without a token that a model may have: tables are padded to round numbers. Where there are more,
the vocabulary was cut short, or is another one."""


def load(folder: Path, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, which pads on the right, so that token 0 is a token.

    Raises UserError if there is none, if it does not load, or if it contains nothing but special tokens.
    """
    for path in (folder / "tokenizer_config.json", folder / "config.json", folder / "tokenizer.json"):
        if path.exists():
            pretrained.read_mapping(path, key)
    try:
        found: PreTrainedTokenizerBase = pretrained.from_folder(
            AutoTokenizer.from_pretrained, folder, f"{key}: the tokenizer of {folder}"
        )
        wanted = tuple(found.vocab_files_names.values())  # none: it reads bytes
    except UserError:
        if hub.file_in(folder, hub.VOCABULARIES) is not None:
            raise
        wanted = hub.VOCABULARIES
    if wanted and hub.file_in(folder, (*hub.VOCABULARIES, *wanted)) is None:
        raise UserError(
            f"{key}: no tokenizer in {folder}: none of {', '.join(wanted)}; put the files of the tokenizer that the "
            "model was trained with there"
        )
    if not found.get_vocab().keys() - set(found.all_special_tokens):
        raise UserError(f"{key}: the tokenizer of {folder} has no words, only {', '.join(found.all_special_tokens)}")
    found.padding_side = "right"
    return found


def load_for_bert(folder: Path, key: str, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, for a BERT with `rows` word embeddings. Raises UserError if the two do not fit."""
    found = load(folder, key)
    check_ids(found, rows, f"{key}: {folder}")
    check_frame(found, f"{key}: {folder}")
    return found


def check_ids(tokenizer: PreTrainedTokenizerBase, rows: int, source: str) -> None:
    """Raise UserError if a tokenizer gives ids for which a model of `rows` word embeddings has none, or far fewer.

    source: where the tokenizer comes from, for messages.
    """
    vocabulary = tokenizer.get_vocab()
    beyond = sorted((token for token, number in vocabulary.items() if number >= rows), key=vocabulary.__getitem__)
    if beyond:
        raise UserError(
            f"{source}: the tokenizer has {len(vocabulary)} tokens, the model embeds {rows}; {len(beyond)} ids are too "
            f"large, first {vocabulary[beyond[0]]} of {beyond[0]!r}; give the tokenizer that the model was trained with"
        )
    if rows - len(vocabulary) > _SPARE:
        raise UserError(
            f"{source}: the tokenizer has {len(vocabulary)} tokens, the model embeds {rows}; its vocabulary is cut "
            "short, or is that of another model: copy or fetch the tokenizer that the model was trained with"
        )


def check_frame(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Raise UserError unless a tokenizer makes of a caption what a BERT reads: [CLS] caption [SEP], padded, masked."""
    names = ("pad_token", "cls_token", "sep_token")
    lacking = [name for name in names if getattr(tokenizer, f"{name}_id") is None]
    if lacking:
        raise UserError(f"{source}: the tokenizer has no {', '.join(lacking)}; name them in tokenizer_config.json")
    try:
        made = tokenizer(["a", "a \u2603 b"], padding="longest", truncation=True, max_length=4)
    except Exception as error:  # those of tokenizers have no common base
        raise UserError(f"{source}: the tokenizer fails on a caption: {error}; give another one") from error
    ids = made["input_ids"][1]
    if (ids[0], ids[-1]) != (tokenizer.cls_token_id, tokenizer.sep_token_id) or "attention_mask" not in made:
        raise UserError(
            f"{source}: the tokenizer does not put a caption between {tokenizer.cls_token} and {tokenizer.sep_token}, "
            "as a BERT reads it; save it again with its post-processor, or give the tokenizer of a BERT"
        )


def check_words(tokenizer: PreTrainedTokenizerBase, captions: Iterable[str], source: str) -> None:
    """Raise UserError if most of the captions' words are unknown to a tokenizer; warn if many are."""
    counts = Counter(word for caption in captions for word in caption.split())
    if tokenizer.unk_token_id is None or not counts:
        return
    words = list(counts)
    pieces = tokenizer(words, add_special_tokens=False)["input_ids"]
    unknown = [word for word, ids in zip(words, pieces, strict=True) if tokenizer.unk_token_id in ids]
    share = sum(counts[word] for word in unknown) / counts.total()
    if share > _NOTABLE:
        often = ", ".join(sorted(unknown, key=counts.__getitem__, reverse=True)[:5])
        found = f"{source}: the tokenizer does not know {share:.0%} of the captions' words, such as {often}"
        if share > _MOST_UNKNOWN:
            raise UserError(
                f"{found}; at most {_MOST_UNKNOWN:.0%} may be unknown: give a model of the captions' language, or text "
                "with weights: random, whose vocabulary is made from the captions"
            )
        logger.warning("%s", found)
