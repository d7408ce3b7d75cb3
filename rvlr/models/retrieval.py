"""The retrieval model of docs/METHOD.md, "Model", as a transformers `PreTrainedModel`.

`encode_images` and `encode_captions` give the embeddings of files and strings. The other methods are the parts of the
model, tensors to tensors: training, extraction and evaluation call them. The losses are in `rvlr.training.losses`.
Importing this module makes transformers' AutoConfig, AutoModel and AutoTokenizer accept model folders.
"""

import copy
import inspect
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeAlias, cast

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, BertModel, PreTrainedModel, PreTrainedTokenizerBase

from rvlr.data.images import ImageError, ImageTransform, evaluation_transform, load_image, upright
from rvlr.data.text import tokenise
from rvlr.errors import UserError, show
from rvlr.models import hub, pretrained, settings, tokens, weights
from rvlr.models.fusion import FusionLayer, KeysValues
from rvlr.models.settings import KEY, RetrievalConfig
from rvlr.models.vision import VisionEncoder

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image
"""The path of an image file, or an image of Pillow in any mode."""
_IMAGES = (str, os.PathLike, Image.Image)

_STUDENT_PARTS = (
    "teacher_vision_proj.",
    "teacher_text_proj.",
    "fusion_weight",
    "relation_image_proj.",
    "relation_text_proj.",
)


def _without(named: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not name.startswith(prefixes)}


def _mlp(width: int, hidden: int, output: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, output))


class RetrievalModel(PreTrainedModel):
    """Vision encoder, text encoder, fusion encoder, projections, matching head and the three learnt scalars."""

    config_class = RetrievalConfig
    config: RetrievalConfig
    base_model_prefix = "rvlr"

    def __init__(self, config: RetrievalConfig, vision_weights: str | Path | None = None) -> None:
        super().__init__(config)
        vision, text, dim = config.vision, config.text, config.embed_dim
        bert = copy.deepcopy(config.bert)
        bert.num_hidden_layers, bert._attn_implementation = text.text_layers, "sdpa"
        self.vision_encoder = VisionEncoder(vision.name, vision.image_size, vision.options, vision_weights)
        self.text_encoder = BertModel(bert, add_pooling_layer=False)
        image_width, text_width = self.vision_encoder.width, bert.hidden_size
        self.fusion_layers = nn.ModuleList(FusionLayer(bert, image_width) for _ in range(text.fusion_layers))
        self.vision_proj = nn.Linear(image_width, dim)
        self.text_proj = nn.Linear(text_width, dim)
        self.match_head = nn.Sequential(
            nn.Linear(text_width, 2 * text_width), nn.LayerNorm(2 * text_width), nn.GELU(), nn.Linear(2 * text_width, 2)
        )
        self.temperature = nn.Parameter(torch.tensor(config.contrast_temperature))
        self.relation_temperature = nn.Parameter(torch.tensor(config.relation_temperature))
        if config.teacher_widths is not None:
            image_teacher, text_teacher = config.teacher_widths
            self.teacher_vision_proj = nn.Linear(image_teacher, dim)
            self.teacher_text_proj = nn.Linear(text_teacher, dim)
            self.fusion_weight = nn.Parameter(torch.tensor(config.fusion_weight))
            if config.relation_projections is not None:
                self.relation_image_proj = _mlp(image_teacher, *config.relation_projections)
                self.relation_text_proj = _mlp(text_teacher, *config.relation_projections)
        for encoder in self._frozen():
            encoder.requires_grad_(False)
        self._folder: Path | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def _frozen(self) -> list[nn.Module]:
        encoders = (self.vision_encoder, self.config.vision), (self.text_encoder, self.config.text)
        return [encoder for encoder, section in encoders if section.frozen]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part initialises itself when it is built, see `from_pretrained`."""

    @classmethod
    def from_pretrained(  # the keyword arguments of the base class differ between releases of transformers
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model folder, or a model of that layout on the hub, in evaluation mode on the CPU.

        config: a RetrievalConfig instead of the folder's. dtype (or torch_dtype): a floating type of PyTorch or its
        name, float32 if it is missing; "auto" for the type that the weights are saved in. Other arguments of the base
        class are accepted where they ask for what is done anyway. Raises UserError for all others, and if any weight is
        missing, unexpected, misshapen or not finite, or if the settings are not those of the weights.
        """
        if pretrained_model_name_or_path is None:
            raise UserError(f"{KEY}: None names nothing; give a folder, or a name on the hub")
        source = _source(pretrained_model_name_or_path)
        dtype = _dtype(kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None))
        _refuse(model_args, kwargs, source)
        if config is not None and not isinstance(config, RetrievalConfig):
            raise UserError(f"config: found {show(config)}; give a RetrievalConfig, or leave the argument out")
        model = cls._load(source, config, None)
        if dtype == "auto":
            dtype = model.config.dtype or torch.float32
        return nn.Module.to(model, dtype)  # the method of the base class has no types

    @classmethod
    def student_from(
        cls,
        folder: str | os.PathLike[str],
        *,
        teacher_widths: Sequence[int],
        fusion_weight: float = 0.5,
        relation_projections: Sequence[int] | None = None,
    ) -> Self:
        """A student that starts from the weights in a model folder; the arguments are those of `RetrievalConfig`.

        The parts that only students have start from PyTorch's random state. Raises UserError as `from_pretrained` does.
        """
        student = {"teacher_widths": list(teacher_widths), "fusion_weight": fusion_weight}
        student["relation_projections"] = None if relation_projections is None else list(relation_projections)
        return cls._load(_source(folder), None, student)

    @classmethod
    def _load(cls, source: str | Path, config: RetrievalConfig | None, student: dict[str, Any] | None) -> Self:
        """The model of a folder, with the settings of the folder or `config`; student: settings that replace others."""
        folder = hub.find(source, KEY, ("model.safetensors",))
        path, described = folder / "model.safetensors", "config" if config is not None else f"{folder / 'config.json'}"
        if not path.exists() and not path.is_symlink():
            inner = folder / "model"  # of a run's folder
            where = inner if inner.is_dir() else "the folder that `rvlr initialise` or a training has written"
            raise UserError(f"{KEY}: {path}: no such file; give {where}")
        shapes = weights.shapes(path, KEY)
        found = pretrained.read_config(folder, KEY) if config is None else config.to_dict()
        arguments = settings.check(found, described, shapes) | (student or {})
        own = _STUDENT_PARTS if student is not None else ()
        outlined = weights.outline(
            lambda: cls(RetrievalConfig(**arguments)), f"{described} describes no model that can be built"
        )
        wrong = weights.differences(*(_without(given, own) for given in (weights.shapes_of(outlined), shapes)))
        if wrong:
            raise UserError(f"{path} and {described} disagree; {wrong}")
        model = cls(outlined.config)
        state = _without(weights.read(path, load_file, KEY), own)
        weights.check_finite(state, str(path))
        model.load_state_dict(state, strict=False)  # the parts that only students have are not in the file
        model._folder = folder
        return model.train(False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the folder that the model was loaded from, read when it is first used.

        Raises UserError if there is none, or if it does not belong to the model.
        """
        if self._tokenizer is None:
            if self._folder is None:
                raise UserError("the model has no tokenizer: it was not loaded from a folder; assign model.tokenizer")
            rows = self.text_encoder.config.vocab_size
            self._tokenizer = tokens.load_for_bert(self._folder, KEY, rows)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike[str], *arguments: Any, **options: Any) -> None:
        """As the base class does, and the tokenizer beside the weights if the model has one."""
        with pretrained.quiet():
            super().save_pretrained(save_directory, *arguments, **options)
        if self._tokenizer is not None or (self._folder and hub.file_in(self._folder, hub.VOCABULARIES)):
            self.tokenizer.save_pretrained(save_directory)

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch, but frozen encoders stay in evaluation mode: no dropout and no updates of batch statistics."""
        super().train(mode)
        for encoder in self._frozen():
            encoder.eval()
        return self

    # --- files and strings to embeddings -------------------------------------------------------------------------

    def encode_images(self, images: ImageInput | Iterable[ImageInput], batch_size: int = 64) -> torch.Tensor:
        """Embeddings (n, embed_dim) of n images, float32 of unit length, on the CPU.

        images: one image or several, each a path or an image of Pillow in any mode; several may come from a generator,
        of which a batch at a time is read. Images are presented as evaluation presents them: upright by EXIF, on white
        where they are transparent. Of a large JPEG given by its path a reduced size is decoded, as evaluation does.
        batch_size: images that go through the model at once, on the device the model is on. The model is in evaluation
        mode meanwhile. Raises UserError that names the image.
        """
        vision = self.config.vision
        transform = evaluation_transform(vision.image_size, vision.mean, vision.std)
        items = enumerate([images] if isinstance(images, _IMAGES) else _iterable(images, "images"))
        rows = [torch.empty(0, self.config.embed_dim)]
        with self._evaluating(batch_size):
            while batch := list(islice(items, batch_size)):
                pixels = torch.stack([_pixels(number, image, transform) for number, image in batch])
                pixels = pixels.to(self.device, self.dtype)
                rows.append(self.embed_image(self.encode_image(pixels)[:, 0]).cpu())
        return torch.cat(rows)

    def encode_captions(self, captions: str | Iterable[str], batch_size: int = 256) -> torch.Tensor:
        """Embeddings (n, embed_dim) of n captions, float32 of unit length, on the CPU.

        captions: one string or several, cleaned and cut as in training. batch_size: captions that go through the model
        at once, on the device the model is on. The model is in evaluation mode meanwhile. Raises UserError that names
        the caption.
        """
        texts = [captions] if isinstance(captions, str) else list(_iterable(captions, "captions"))
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"captions[{number}]: found {show(text)}; give text")
        embeddings = torch.empty(len(texts), self.config.embed_dim)
        with self._evaluating(batch_size):
            for chosen, features, _ in self.caption_batches(texts, batch_size):
                embeddings[chosen] = self.embed_text(features[:, 0]).cpu()
        return embeddings

    def caption_batches(
        self, captions: Sequence[str], batch_size: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Tokens of captions in batches of similar lengths, so that little is padded: which captions (B), their tokens
        (B, L, text width) and their attention mask (B, L)."""
        text = self.config.text
        order = sorted(range(len(captions)), key=lambda index: len(captions[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenise(self.tokenizer, [captions[index] for index in chosen], text.max_words, text.max_tokens)
            ids, mask = (batch[name].to(self.device) for name in ("input_ids", "attention_mask"))
            yield chosen, self.encode_text(ids, mask), mask

    @contextmanager
    def _evaluating(self, batch_size: int) -> Iterator[None]:
        """Evaluation and inference mode; afterwards every part of the model is in the mode in which it was before."""
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size: found {show(batch_size)}; give a whole number of at least 1")
        modes = {module: module.training for module in self.modules()}
        self.train(False)
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    # --- tensors to tensors: the parts of the model ---------------------------------------------------------------

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised pixels -> (B, 1 + N, image width) tokens; `encode_images` takes files."""
        tokens: torch.Tensor = self.vision_encoder(pixels)
        return tokens

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L), (B, L) -> (B, L, text width) tokens; `encode_captions` takes strings."""
        tokens: torch.Tensor = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return tokens

    def embed_image(self, feature: torch.Tensor) -> torch.Tensor:
        """(B, image width) token 0 -> (B, embed_dim), unit length."""
        return F.normalize(self.vision_proj(feature).float(), dim=-1)

    def embed_text(self, feature: torch.Tensor) -> torch.Tensor:
        """(B, text width) token 0 -> (B, embed_dim), unit length."""
        return F.normalize(self.text_proj(feature).float(), dim=-1)

    def embed_teacher(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stored teacher features (B, teacher widths) -> (B, embed_dim) each, unit length. Students only."""
        image, text = self.teacher_vision_proj(image), self.teacher_text_proj(text)
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    def project_relations(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stored teacher features (B, teacher widths) -> (B, output width), where `relation_projections` is set."""
        return self.relation_image_proj(image), self.relation_text_proj(text)

    def image_keys_values(self, image_tokens: torch.Tensor) -> list[KeysValues]:
        """(B, 1 + N, image width) -> the cross-attention's keys and values, layer by layer."""
        return [layer.crossattention.keys_values(image_tokens) for layer in self._fusion_layers()]

    def _fusion_layers(self) -> list[FusionLayer]:
        return cast("list[FusionLayer]", list(self.fusion_layers))

    def fuse(
        self,
        text_tokens: torch.Tensor,
        attention_mask: torch.Tensor,
        keys_values: list[KeysValues],
        image: torch.Tensor | None = None,
        caption: torch.Tensor | None = None,
        cls_only: bool = False,
    ) -> torch.Tensor:
        """Fuse captions with images, P pairs.

        text_tokens: (C, L, D), attention_mask: (C, L), keys_values: of B images, image and caption: (P,) which image
        and which caption each pair consists of (None: the first, the second, and so on). Returns (P, L, D), or with
        `cls_only` (P, 1, D): the last layer then works for [CLS] alone, which is all that matching needs. The first
        self-attention's keys and values, which depend on the caption alone, are computed once for each caption.
        """
        hidden, layers = text_tokens, self._fusion_layers()
        attended = layers[0].attention.keys_values(hidden)
        mask = attention_mask.bool()[:, None, None, :]
        if caption is not None:
            # unlike indexing, the backward of index_select adds in a fixed order on a CPU: same seed, same bits
            hidden, mask = hidden.index_select(0, caption), mask.index_select(0, caption)
            attended = attended[0].index_select(0, caption), attended[1].index_select(0, caption)
        for layer, (keys, values) in zip(layers, keys_values, strict=True):
            if layer is not layers[0]:
                attended = layer.attention.keys_values(hidden)
            if image is not None:
                keys, values = keys.index_select(0, image), values.index_select(0, image)
            queries = hidden[:, :1] if cls_only and layer is layers[-1] else hidden
            hidden = layer.cross_block(layer.attention(queries, attended, mask), (keys, values))
        return hidden

    def match(self, fused_cls: torch.Tensor) -> torch.Tensor:
        """(P, D) fused [CLS] -> (P, 2) logits; class 1 means "they belong together"."""
        logits: torch.Tensor = self.match_head(fused_cls)
        return logits

    def forward(
        self, pixels: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Embeddings of B images and B captions, and the match logits of each image with its caption."""
        image, text = self.encode_image(pixels), self.encode_text(input_ids, attention_mask)
        fused = self.fuse(text, attention_mask, self.image_keys_values(image))
        return {
            "image_embeds": self.embed_image(image[:, 0]),
            "text_embeds": self.embed_text(text[:, 0]),
            "match_logits": self.match(fused[:, 0]),
        }


AutoModel.register(RetrievalConfig, RetrievalModel, exist_ok=True)

_DONE_ANYWAY: dict[str, Any] = {
    "_from_auto": True,
    "adapter_kwargs": {},
    "trust_remote_code": False,
    "use_safetensors": True,
}
"""Arguments, beside those that have the base class's default, that ask for what loading does in any case."""


def _refuse(positional: tuple[Any, ...], given: dict[str, Any], source: str | Path) -> None:
    """Raise UserError for arguments of `PreTrainedModel.from_pretrained` that ask for something else than is done."""
    parameters = inspect.signature(PreTrainedModel.from_pretrained).parameters
    asked = {
        name: value
        for name, value in given.items()
        if value is not None
        and not (name in parameters and value == parameters[name].default)
        and not (name in _DONE_ANYWAY and value == _DONE_ANYWAY[name])
        and not (name == "local_files_only" and hub.local(source, KEY) is not None)
    }
    asked |= {"model_args": positional} if positional else {}
    if asked:
        named = ", ".join(f"{name}={show(value)}" for name, value in asked.items())
        raise UserError(
            f"from_pretrained: {named} cannot be followed: all weights are loaded as config.json describes them, on "
            "the CPU, without code of the folder; move the model afterwards with model.to(device), and fetch other "
            "revisions with `hf download`"
        )


def _source(given: str | os.PathLike[str]) -> str | Path:
    """A string may be a name on the hub; a path is none."""
    return given if isinstance(given, str) else Path(given)


def _dtype(given: Any) -> Any:
    """A floating type of PyTorch, or "auto". Raises UserError."""
    if given is None or given == "auto":
        return given or torch.float32
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise UserError(f"dtype: found {show(given)}; give 'auto', float32, float16, bfloat16 or float64")
    return found


def _iterable(given: Iterable[Any], name: str) -> Iterable[Any]:
    if not isinstance(given, Iterable):
        raise UserError(f"{name}: found {show(given)}; give one of them, or a list")
    return given


def _pixels(number: int, image: ImageInput, transform: ImageTransform) -> torch.Tensor:
    """An image as evaluation presents it, (3, H, W). Raises UserError that names the image by its place."""
    if not isinstance(image, _IMAGES):
        raise UserError(
            f"images[{number}]: found an object of type {type(image).__name__}; give a path or an image of Pillow "
            "(PIL.Image.fromarray makes one of an array)"
        )
    try:
        if isinstance(image, Image.Image) and 0 in image.size:
            raise ImageError("has no pixels")
        picture = upright(image) if isinstance(image, Image.Image) else load_image(Path(image), transform.at_least)
        pixels: torch.Tensor = transform(picture)
    except UserError as error:
        raise UserError(f"images[{number}]: {error}") from error
    except Exception as error:  # on damaged files the decoders raise almost anything
        fault = error if isinstance(error, ImageError) else f"cannot be used: {error}"
        raise UserError(f"images[{number}]: the image {fault}") from error
    return pixels
