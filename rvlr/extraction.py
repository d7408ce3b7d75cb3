"""Stage `extract`: the teacher's single-modal features of the training set, as memory-mapped .npy files.

Input: a trained teacher's model folder, or a pair of single-modal models, and the training split. Output:
`image.npy` (images, D_image) and `text.npy` (captions, D_text), float32, one row an image and one row a caption, and
`index.json` with the ids of the rows. docs/METHOD.md, "Training": features *before* the projections, image token 0 and
text [CLS].
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoModel, PreTrainedModel

from rvlr import arrays, config, files, provenance
from rvlr.config.sections import TextFeatures
from rvlr.data.features import PARTS, write_index
from rvlr.data.images import evaluation_transform
from rvlr.data.loading import image_batches
from rvlr.data.records import Split
from rvlr.data.text import tokenise
from rvlr.distributed import Processes, processes
from rvlr.errors import UserError, show
from rvlr.log import logger, track
from rvlr.models import hub, pretrained, tokens, weights
from rvlr.models.retrieval import RetrievalModel
from rvlr.models.vision import VisionEncoder


@dataclass(frozen=True)
class Extractor:
    """Two functions that give feature rows: of an image batch (B, 3, H, W), and of B captions."""

    vision: config.VisionSettings
    image: Callable[[torch.Tensor], torch.Tensor]
    text: Callable[[list[str]], torch.Tensor]


def trained_extractor(folder: Path | None, device: torch.device) -> Extractor:
    """Features of a model that stage 1 trained."""
    if folder is None:
        raise UserError("--model is missing: the teacher is a trained one, so give its model folder")
    model = RetrievalModel.from_pretrained(folder)
    model, text = model.to(device), model.config.text

    def encode_text(captions: list[str]) -> torch.Tensor:
        batch = tokenise(model.tokenizer, captions, text.max_words, text.max_tokens)
        return model.encode_text(**{key: value.to(device) for key, value in batch.items()})[:, 0]

    return Extractor(model.config.vision, lambda pixels: model.encode_image(pixels)[:, 0], encode_text)


def single_modal_extractor(
    section: config.SingleModalTeacher, device: torch.device, captions: Sequence[str] = ()
) -> Extractor:
    """Features of any timm model and any transformers text encoder. Captions are not cleaned: such models
    were trained on punctuation and capitals.

    captions: those that will be encoded. Raises UserError if weights or tokenizer are missing, incomplete or do not
    belong together.
    """
    torch.manual_seed(0)  # a vision model with random weights is the same one every time, and in every process
    encode_text = _text_encoder(section.text, device, captions)
    vision = section.vision
    start = None if vision.weights == "random" else vision.weights
    weights.outline(
        lambda: VisionEncoder(vision.name, vision.image_size, vision.options), "the teacher cannot be built"
    )
    encoder = VisionEncoder(vision.name, vision.image_size, vision.options, start).eval().to(device)
    return Extractor(vision, lambda pixels: encoder(pixels)[:, 0], encode_text)


def _text_encoder(
    text: TextFeatures, device: torch.device, captions: Sequence[str]
) -> Callable[[list[str]], torch.Tensor]:
    key = "text.weights"
    folder = hub.find(text.weights, key, hub.WEIGHTS, hub.VOCABULARIES)
    source = f"{key}: {folder}"
    model = _text_model(folder, key)
    tokenizer = tokens.load(folder, key)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(f"{source}: the tokenizer has no pad_token and no eos_token; set one in tokenizer_config.json")
    tokens.check_ids(tokenizer, model.get_input_embeddings().weight.shape[0], source)
    tokens.check_words(tokenizer, captions, source)
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    model = model.to(device)
    positions = getattr(model.config, "max_position_embeddings", text.max_tokens)
    if text.max_tokens > positions:
        raise UserError(f"text.max_tokens: {text.max_tokens} exceeds the {positions} of {text.weights}")

    def encode(captions: list[str]) -> torch.Tensor:
        batch = tokenizer(captions, padding="longest", truncation=True, max_length=text.max_tokens, return_tensors="pt")
        batch = batch.to(device)
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        if text.pooling == "cls":
            return hidden[:, 0]
        mask = batch["attention_mask"][:, :, None].to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    try:
        with torch.inference_mode():
            encode(["a", "a " * text.max_tokens])
    except Exception as error:  # models that are no text encoders, or have fewer positions, fail in many ways
        raise UserError(f"{source}: it does not encode captions of {text.max_tokens} tokens: {error}") from error
    return encode


def _text_model(folder: Path, key: str) -> PreTrainedModel:
    """Any model of transformers; what is not used for features may be missing: poolers, and the decoder of a pair."""
    found = pretrained.load_config(folder, key)

    def is_unused(model: PreTrainedModel, name: str) -> bool:
        return name.startswith("pooler.") or (found.is_encoder_decoder and name.startswith("decoder."))

    def is_head(model: PreTrainedModel, name: str) -> bool:
        part = name.removeprefix(f"{model.base_model_prefix}.").split(".")[0]
        return part not in dict(model.named_children()) or is_unused(model, part + ".")

    return pretrained.load_model(
        folder,
        key,
        lambda: AutoModel.from_config(found, trust_remote_code=False),
        AutoModel.from_pretrained,
        is_head,
        is_unused,
        config=found,
    )


@torch.inference_mode()
def extract(section: config.Teacher, model: Path | None, split: Split, output: Path) -> None:
    """Write the features of a split. With several processes each writes its own rows of the same files.

    model: the folder of a trained teacher, None for a pair of single-modal models.
    """
    with processes(section.processes) as group:
        _extract(section, model, split, output, group)


def _extract(section: config.Teacher, model: Path | None, split: Split, output: Path, group: Processes) -> None:
    accelerator = group.accelerator
    if isinstance(section, config.SingleModalTeacher):
        extractor = single_modal_extractor(section, accelerator.device, split.captions)
        about: dict[str, Any] = {"teacher": section.model_dump(mode="json")}
    else:
        extractor = trained_extractor(model, accelerator.device)
        about = {"teacher": {"model_sha256": provenance.sha256(model / "model.safetensors")}}
    if len(split.records) < accelerator.num_processes:
        raise UserError(f"{len(split.records)} images cannot be shared by {accelerator.num_processes} processes")
    parts = {
        "image": (len(split.records), _image_rows(extractor, split, section.batch_size, section.workers, accelerator)),
        "text": (len(split.captions), _text_rows(extractor, split, section.batch_size, accelerator)),
    }
    with _partial(output, accelerator) as partial:
        for name, (count, rows) in parts.items():
            first, target = _share(count, accelerator)[0], None
            for block in rows:
                if target is None:
                    target = _open_shared(partial[name], (count, block.shape[1]), group)
                values = block.float().cpu().numpy()
                _check_finite(values, name, split, first)
                target[first : first + len(block)] = values
                first += len(block)
            target.flush()
        group.meet("writing the features")
        if accelerator.is_main_process:
            (output / "index.json").unlink(missing_ok=True)  # never an old index beside new rows
            for name in parts:
                with files.atomic_file(output / f"{name}.npy") as temporary:
                    partial[name].replace(temporary)
            write_index(output, split, **about)
            logger.info("features of %d images and %d captions in %s", len(split.records), len(split.captions), output)


@contextmanager
def _partial(output: Path, accelerator: Accelerator) -> Iterator[dict[str, Path]]:
    """The files that all processes write the rows of each part into; the main process removes what is left of them."""
    paths = {name: output / f".{name}.partial.npy" for name in PARTS}
    if not accelerator.is_main_process:
        yield paths
        return
    with files.folder_of(output / "index.json"):
        try:
            yield paths
        finally:
            for path in paths.values():
                path.unlink(missing_ok=True)


def _open_shared(path: Path, shape: tuple[int, int], group: Processes) -> np.ndarray:
    """A writable memory map that the main process makes and all processes open."""
    if group.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays.create(path, shape)
    group.meet(f"opening {path}")
    return np.lib.format.open_memmap(path, mode="r+")


def _check_finite(values: np.ndarray, name: str, split: Split, first: int) -> None:
    """Raise UserError naming the image or caption, if a feature is NaN or infinite."""
    row = arrays.first_not_finite(values)
    if row is not None:
        row += first
        of = f"image {show(split.records[row].image)}" if name == "image" else f"caption {show(split.captions[row])}"
        raise UserError(
            f"the teacher's {name} features are not all finite, the first of {of} (row {row}); check the teacher's "
            "weights, its mean and std, and its training log"
        )


def _share(count: int, accelerator: Accelerator) -> tuple[int, int]:
    rank, processes = accelerator.process_index, accelerator.num_processes
    return count * rank // processes, count * (rank + 1) // processes


def _image_rows(
    extractor: Extractor, split: Split, batch_size: int, workers: int, accelerator: Accelerator
) -> Iterator[torch.Tensor]:
    vision = extractor.vision
    transform = evaluation_transform(vision.image_size, vision.mean, vision.std)
    batches = image_batches(split, transform, batch_size, workers, *_share(len(split.records), accelerator))
    for pixels in track(batches, "image features", len(batches), "batches"):
        yield extractor.image(pixels.to(accelerator.device))


def _text_rows(extractor: Extractor, split: Split, batch_size: int, accelerator: Accelerator) -> Iterator[torch.Tensor]:
    first, last = _share(len(split.captions), accelerator)
    starts = range(first, last, batch_size)
    for start in track(starts, "text features", len(starts), "batches"):
        yield extractor.text(split.captions[start : min(start + batch_size, last)])
