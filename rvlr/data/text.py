"""Captions: cleaning as docs/METHOD.md, "Training", says, tokenisation, and a vocabulary for models that bring none."""

import re
from collections import Counter
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_DROPPED = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~"), "-": " ", "/": " "})
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def clean_caption(caption: str, max_words: int) -> str:
    """Lower case; the characters , . ' ! ? " ( ) * # : ; ~ go; '-' and '/' become spaces; '<person>' becomes
    'person'; runs of white space collapse; at most `max_words` words are kept."""
    text = caption.lower().translate(_DROPPED).replace("<person>", "person")
    return " ".join(re.split(r"\s+", text.strip())[:max_words])


def tokenise(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_words: int, max_tokens: int
) -> dict[str, torch.Tensor]:
    """Clean and tokenise B captions, padded to the longest of them: `input_ids` and `attention_mask`, (B, L)."""
    cleaned = [clean_caption(caption, max_words) for caption in captions]
    tokens = tokenizer(
        cleaned,
        padding="longest",
        truncation=True,
        max_length=max_tokens,
        return_tensors="pt",
        return_token_type_ids=False,
    )
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def learn_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer whose vocabulary has every word and, for unseen words, every character of the cleaned
    captions. Built by counting, so that the same captions always give the same ids."""
    words = Counter(word for caption in captions for word in clean_caption(caption, 10**6).split())
    characters = sorted({character for word in words for character in word})
    ranked = sorted(words, key=lambda word: (-words[word], word))
    pieces = [*_SPECIAL, *ranked, *characters, *(f"##{character}" for character in characters)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
