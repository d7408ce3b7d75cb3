"""What is learnt: tasks join the model and the losses. The loop sees only `task(batch) -> {"loss": ..., terms}`.

docs/METHOD.md, "Losses": stage 1 is `TeacherTask`, stage 2 `StudentTask`. Terms of weight 0 are not computed, and the
parts of the model that no other term trains are frozen.

A new term is computed in one of the `_terms`, with a loss of `rvlr.training.losses`, under the name of its weight in
`rvlr.config.training`; `TRAINED_BY` says which parts of the model it trains.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from rvlr import config
from rvlr.data.features import Features
from rvlr.data.loading import Batch
from rvlr.distributed import gather
from rvlr.models.retrieval import RetrievalModel
from rvlr.training import losses

Section = config.TrainedTeacher | config.Student
Terms = dict[str, torch.Tensor]

RELATION_PROJECTIONS = [1536, 768]
"""Hidden and output width of the MLPs before the Wasserstein distance; docs/METHOD.md, "Losses"."""
CAPTIONS_AT_ONCE = 16
TRAINED_BY = {
    "fusion_layers": ("itm", "kd"),
    "match_head": ("itm",),
    "vision_proj": ("itc", "iic", "rdi"),
    "text_proj": ("itc", "ttc", "rdt"),
    "temperature": ("itc", "iic", "ttc"),
    "teacher_vision_proj": ("iic",),
    "teacher_text_proj": ("ttc",),
    "relation_temperature": ("kd", "kdi", "kdt"),
    "fusion_weight": ("kd", "kdi", "kdt"),
}
"""Part of the model -> the terms that train it. The encoders are trained by all."""


@dataclass(frozen=True)
class Pairs:
    """A batch of B image-text pairs after the encoders: tokens (B, length, width), embeddings (B, E) in float32."""

    batch: Batch
    image_tokens: torch.Tensor
    text_tokens: torch.Tensor
    image: torch.Tensor
    text: torch.Tensor


class Task(nn.Module):
    """What both stages share."""

    def __init__(self, model: RetrievalModel, weights: config.TeacherWeights, itm_pool: int | None = None) -> None:
        """itm_pool: see `losses.hard_negatives`."""
        super().__init__()
        self.model, self.itm_pool = model, itm_pool
        self.weights = {name: weight for name, weight in weights.model_dump().items() if weight > 0}
        for part, terms in TRAINED_BY.items():
            if hasattr(model, part) and not self._uses(*terms):
                getattr(model, part).requires_grad_(False)

    def fresh_heads(self) -> list[nn.Module]:
        """The modules that learn at `lr_mult` times the learning rate: heads that start from random weights."""
        model = self.model
        return [model.vision_proj, model.text_proj, model.match_head] if model.config.fresh_heads else []

    def forward(self, batch: Batch) -> Terms:
        """batch: see `PairCollator`. Returns the weighted total as `loss` and every term by its name."""
        image_tokens = batch["image_tokens"] if "image_tokens" in batch else self.model.encode_image(batch["pixels"])
        text_tokens = self._text_tokens(batch["input_ids"], batch["attention_mask"])
        image, text = self.model.embed_image(image_tokens[:, 0]), self.model.embed_text(text_tokens[:, 0])
        found = self._terms(Pairs(batch, image_tokens, text_tokens, image.float(), text.float()))
        terms = {name: found[name] for name in self.weights}
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}

    def _text_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Text tokens (B, L, width) of ids and mask (B, L). On a CPU captions of similar length are encoded together,
        since padding takes as long as words do there; a GPU takes longer for several small batches."""
        if ids.device.type != "cpu":
            return self.model.encode_text(ids, mask)
        encoder = self.model.text_encoder
        words = encoder.get_input_embeddings()(ids)  # together: the gradient of the whole vocabulary is made once
        lengths = mask.sum(dim=1)
        order = lengths.argsort(stable=True)
        parts = []
        for rows in order.split(CAPTIONS_AT_ONCE):
            length = int(lengths[rows].max())
            taken = words.index_select(0, rows)[:, :length]
            tokens = encoder(inputs_embeds=taken, attention_mask=mask[rows, :length]).last_hidden_state
            parts.append(F.pad(tokens, (0, 0, 0, ids.shape[1] - length)))
        return torch.cat(parts).index_select(0, order.argsort())

    def _terms(self, pairs: Pairs) -> Terms:
        """The terms that have a weight, by name."""
        raise NotImplementedError

    def _uses(self, *terms: str) -> bool:
        return any(term in self.weights for term in terms)

    def _match(self, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        """The matching loss and the fused [CLS] (B, D) of the positive pairs, from one pass over 3B pairs."""
        ids, size = pairs.batch["image"], len(pairs.image)
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            similarity = pairs.image @ pairs.text.T
        temperature, pool = self.model.temperature, self.itm_pool
        wrong_text, text_found = losses.hard_negatives(similarity, ids, temperature, pool)
        wrong_image, image_found = losses.hard_negatives(similarity.T, ids, temperature, pool)
        every = torch.arange(size, device=ids.device)
        captions = torch.cat([every, wrong_text, every])
        fused = self.model.fuse(
            pairs.text_tokens,
            pairs.batch["attention_mask"],
            self.model.image_keys_values(pairs.image_tokens),
            image=torch.cat([every, every, wrong_image]),
            caption=captions,
            cls_only=True,
        )[:, 0]
        logits, found = self.model.match(fused), torch.cat([text_found, image_found])
        return losses.matching_loss(logits[:size], logits[size:], found), fused[:size]


class TeacherTask(Task):
    """Stage 1: ITC and ITM."""

    def _terms(self, pairs: Pairs) -> Terms:
        terms: Terms = {}
        if self._uses("itc"):
            with torch.autocast(pairs.image.device.type, enabled=False):
                ids, image, text = gather(pairs.batch["image"]), gather(pairs.image), gather(pairs.text)
                terms["itc"] = losses.contrastive_loss(image, text, ids, self.model.temperature)
        if self._uses("itm"):
            terms["itm"], _ = self._match(pairs)
        return terms


class StudentTask(Task):
    """Stage 2: all terms against stored teacher features, `teacher_image` and `teacher_text` of the batch."""

    def __init__(self, model: RetrievalModel, section: config.Student) -> None:
        self.distance, weights = section.distance, section.weights
        if self.distance == "wasserstein":  # defined for KD alone
            weights = weights.model_copy(update={"kdi": 0.0, "kdt": 0.0})
        super().__init__(model, weights, section.training.itm_pool)
        if not section.fusion_weight.learnt:
            model.fusion_weight.requires_grad_(False)

    def fresh_heads(self) -> list[nn.Module]:
        heads = [*super().fresh_heads(), self.model.teacher_vision_proj, self.model.teacher_text_proj]
        if self.distance == "wasserstein":
            heads += [self.model.relation_image_proj, self.model.relation_text_proj]
        return heads

    def _terms(self, pairs: Pairs) -> Terms:
        terms: Terms = {}
        fused = torch.empty(0)
        if self._uses("itm"):
            terms["itm"], fused = self._match(pairs)
        elif self._uses("kd"):
            keys_values = self.model.image_keys_values(pairs.image_tokens)
            mask = pairs.batch["attention_mask"]
            fused = self.model.fuse(pairs.text_tokens, mask, keys_values, cls_only=True)[:, 0]
        with torch.autocast(pairs.image.device.type, enabled=False):
            if self._uses("itc", "iic", "ttc"):
                terms |= self._contrasts(pairs)
            if self._uses("kd", "kdi", "kdt"):
                terms |= self._relations(pairs, fused)
            if self._uses("rdi"):
                terms["rdi"] = self._embedding_relations(pairs.image, pairs.batch["teacher_image"])
            if self._uses("rdt"):
                terms["rdt"] = self._embedding_relations(pairs.text, pairs.batch["teacher_text"])
        return terms

    def _embedding_relations(self, embeddings: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """RDI or RDT of the gathered batch; tau2 is a constant here."""
        temperature = self.model.relation_temperature.detach()
        student, teacher = (losses.relation_matrix(gather(rows), temperature) for rows in (embeddings, features))
        return losses.relation_distillation_loss(student, teacher)

    def _contrasts(self, pairs: Pairs) -> Terms:
        """ITC, IIC and TTC of the gathered batch."""
        terms: Terms = {}
        batch, temperature = pairs.batch, self.model.temperature
        ids, image, text = gather(batch["image"]), gather(pairs.image), gather(pairs.text)
        if self._uses("itc"):
            terms["itc"] = losses.contrastive_loss(image, text, ids, temperature)
        if self._uses("iic", "ttc"):
            teacher_image, teacher_text = self.model.embed_teacher(batch["teacher_image"], batch["teacher_text"])
            distil = losses.representation_distillation_loss
            if self._uses("iic"):
                terms["iic"] = distil(image, gather(teacher_image), ids, temperature)
            if self._uses("ttc"):
                terms["ttc"] = distil(text, gather(teacher_text), ids, temperature)
        return terms

    def _relations(self, pairs: Pairs, fused: torch.Tensor) -> Terms:
        """KD, KDI and KDT of the gathered batch. fused: (B, D), the fused [CLS] of the pairs, for KD."""
        terms: Terms = {}
        model, temperature = self.model, self.model.relation_temperature
        teacher_image, teacher_text = gather(pairs.batch["teacher_image"]), gather(pairs.batch["teacher_text"])
        if self.distance == "wasserstein":
            teacher_image, teacher_text = model.project_relations(teacher_image, teacher_text)
        of_images = losses.relation_matrix(teacher_image, temperature)
        of_texts = losses.relation_matrix(teacher_text, temperature)
        target = losses.fuse_relations(of_images, of_texts, model.fusion_weight)
        if self.distance == "wasserstein":
            student = losses.relation_matrix(gather(fused.float()), temperature)
            return {"kd": losses.wasserstein_distance(student, target, gather(pairs.text))}
        distance = losses.DISTANCES[self.distance]
        if self._uses("kd"):
            terms["kd"] = distance(losses.relation_matrix(gather(fused.float()), temperature), target)
        if self._uses("kdi"):
            terms["kdi"] = distance(of_images, target)
        if self._uses("kdt"):
            terms["kdt"] = distance(of_texts, target)
        return terms


def make_task(section: Section, folder: Path, features: Features | None) -> Task:
    """The task of a section, on the model in a folder. features: the teacher's, of a student."""
    if isinstance(section, config.TrainedTeacher):
        return TeacherTask(RetrievalModel.from_pretrained(folder), section.weights, section.training.itm_pool)
    if features is None:
        raise ValueError("a student needs the features of its teacher")
    model = RetrievalModel.student_from(
        folder,
        teacher_widths=[features.image.shape[1], features.text.shape[1]],
        fusion_weight=section.fusion_weight.value,
        relation_projections=RELATION_PROJECTIONS if section.distance == "wasserstein" else None,
    )
    return StudentTask(model, section)
