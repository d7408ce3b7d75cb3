"""What is learnt: tasks join the model and the losses. The loop sees only `task(batch) -> {"loss": ..., terms}`.

METHOD.md, "Losses": stage 1 is `TeacherTask`, stage 2 `StudentTask`. Terms of weight 0 are not computed, and
parameters that no term reaches are frozen.
"""

import torch
from torch import nn

from rvlr import config
from rvlr.data.loading import Batch
from rvlr.distributed import gather
from rvlr.models.retrieval import RetrievalModel
from rvlr.training import losses

Terms = dict[str, torch.Tensor]


class TeacherTask(nn.Module):
    """Image-text contrast and matching."""

    def __init__(self, model: RetrievalModel, weights: config.TeacherWeights, itm_pool: int | None = None) -> None:
        super().__init__()
        self.model, self.itm_pool = model, itm_pool
        self.weights = {name: weight for name, weight in weights.model_dump().items() if weight > 0}
        self._freeze_unused()

    def fresh_heads(self) -> list[nn.Module]:
        """The modules that learn at `lr_mult` times the learning rate: heads that start from random weights."""
        model = self.model
        return [model.vision_proj, model.text_proj, model.match_head] if model.config.fresh_heads else []

    def _uses(self, *terms: str) -> bool:
        return any(term in self.weights for term in terms)

    def _freeze_unused(self) -> None:
        model = self.model
        unused: list[nn.Module | nn.Parameter] = []
        if not self._uses("itm"):
            unused.append(model.match_head)
        if not self._uses("itm", "kd"):
            unused.append(model.fusion_layers)
        if not self._uses("itc", "iic", "ttc"):
            unused.append(model.temperature)
        if not self._uses("itc", "iic"):
            unused.append(model.vision_proj)
        if not self._uses("itc", "ttc"):
            unused.append(model.text_proj)
        if not self._uses("kd", "kdi", "kdt"):
            unused.append(model.relation_temperature)
        for part in unused:
            part.requires_grad_(False)

    def forward(self, batch: Batch) -> Terms:
        """batch: see `PairCollator`. Returns the weighted total as `loss` and every term by its name."""
        image_tokens = self.model.encode_image(batch["pixels"])
        text_tokens = self.model.encode_text(batch["input_ids"], batch["attention_mask"])
        image, text = self.model.embed_image(image_tokens[:, 0]), self.model.embed_text(text_tokens[:, 0])
        terms = self._terms(batch, image_tokens, text_tokens, image.float(), text.float())
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": total, **terms}

    def _terms(
        self,
        batch: Batch,
        image_tokens: torch.Tensor,
        text_tokens: torch.Tensor,
        image: torch.Tensor,
        text: torch.Tensor,
    ) -> Terms:
        terms: Terms = {}
        if self._uses("itc"):
            with torch.autocast(image.device.type, enabled=False):
                ids = gather(batch["image"])
                terms["itc"] = losses.itc(gather(image), gather(text), ids, self.model.temperature)
        if self._uses("itm"):
            terms["itm"], _ = self._match(batch, image_tokens, text_tokens, image, text)
        return terms

    def _match(
        self,
        batch: Batch,
        image_tokens: torch.Tensor,
        text_tokens: torch.Tensor,
        image: torch.Tensor,
        text: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The matching loss and the fused [CLS] (B, D) of the positive pairs, from one pass over 3B pairs."""
        ids, size = batch["image"], len(image)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            similarity = image @ text.T
        temperature, pool = self.model.temperature, self.itm_pool
        wrong_text, text_found = losses.hard_negatives(similarity, ids, temperature, pool)
        wrong_image, image_found = losses.hard_negatives(similarity.T, ids, temperature, pool)
        every = torch.arange(size, device=ids.device)
        captions = torch.cat([every, wrong_text, every])
        fused = self.model.fuse(
            # unlike indexing, the backward of index_select adds in a fixed order on a CPU: same seed, same bits
            text_tokens.index_select(0, captions),
            batch["attention_mask"].index_select(0, captions),
            self.model.image_keys_values(image_tokens),
            image=torch.cat([every, every, wrong_image]),
            cls_only=True,
        )[:, 0]
        logits = self.model.match(fused)
        return losses.itm(logits[:size], logits[size:], torch.cat([text_found, image_found])), fused[:size]


class StudentTask(TeacherTask):
    """All seven terms against stored teacher features, which the batch brings as `teacher_image`, `teacher_text`."""

    def __init__(self, model: RetrievalModel, section: config.Student) -> None:
        self.distance, weights = section.distance, section.weights
        if self.distance == "wasserstein":  # it knows KD alone
            weights = weights.model_copy(update={"kdi": 0.0, "kdt": 0.0})
        super().__init__(model, weights, section.training.itm_pool)
        model.fusion_weight.requires_grad_(section.fusion_weight.learnt and self._uses("kd", "kdi", "kdt"))

    def fresh_heads(self) -> list[nn.Module]:
        heads = [*super().fresh_heads(), self.model.teacher_vision_proj, self.model.teacher_text_proj]
        if self.distance == "wasserstein":
            heads += [self.model.relation_image_proj, self.model.relation_text_proj]
        return heads

    def _freeze_unused(self) -> None:
        super()._freeze_unused()
        self.model.teacher_vision_proj.requires_grad_(self._uses("iic"))
        self.model.teacher_text_proj.requires_grad_(self._uses("ttc"))

    def _terms(
        self,
        batch: Batch,
        image_tokens: torch.Tensor,
        text_tokens: torch.Tensor,
        image: torch.Tensor,
        text: torch.Tensor,
    ) -> Terms:
        terms: Terms = {}
        fused = None
        if self._uses("itm"):
            terms["itm"], fused = self._match(batch, image_tokens, text_tokens, image, text)
        elif self._uses("kd"):
            keys_values = self.model.image_keys_values(image_tokens)
            fused = self.model.fuse(text_tokens, batch["attention_mask"], keys_values, cls_only=True)[:, 0]
        with torch.autocast(image.device.type, enabled=False):
            terms.update(self._contrasts(batch, image, text))
            if self._uses("kd", "kdi", "kdt"):
                terms.update(self._structure(batch, fused, text))
        return {name: terms[name] for name in self.weights}

    def _contrasts(self, batch: Batch, image: torch.Tensor, text: torch.Tensor) -> Terms:
        """ITC, IIC and TTC of the gathered batch."""
        terms: Terms = {}
        if not self._uses("itc", "iic", "ttc"):
            return terms
        temperature, ids = self.model.temperature, gather(batch["image"])
        image, text = gather(image), gather(text)
        if self._uses("itc"):
            terms["itc"] = losses.itc(image, text, ids, temperature)
        if self._uses("iic", "ttc"):
            teacher_image, teacher_text = self.model.embed_teacher(batch["teacher_image"], batch["teacher_text"])
            if self._uses("iic"):
                terms["iic"] = losses.representation_distillation(image, gather(teacher_image), ids, temperature)
            if self._uses("ttc"):
                terms["ttc"] = losses.representation_distillation(text, gather(teacher_text), ids, temperature)
        return terms

    def _structure(self, batch: Batch, fused: torch.Tensor | None, text: torch.Tensor) -> Terms:
        """KD, KDI and KDT of the gathered batch."""
        model, temperature = self.model, self.model.relation_temperature
        teacher_image, teacher_text = gather(batch["teacher_image"]), gather(batch["teacher_text"])
        if self.distance == "wasserstein":
            teacher_image, teacher_text = model.project_relations(teacher_image, teacher_text)
        image, words = losses.relation(teacher_image, temperature), losses.relation(teacher_text, temperature)
        target = losses.fuse_relations(image, words, model.fusion_weight)
        terms: Terms = {}
        if self._uses("kd"):
            student = losses.relation(gather(fused.float()), temperature)
            if self.distance == "wasserstein":
                return {"kd": losses.wasserstein(student, target, gather(text))}
            terms["kd"] = losses.DISTANCES[self.distance](student, target)
        if self._uses("kdi"):
            terms["kdi"] = losses.DISTANCES[self.distance](image, target)
        if self._uses("kdt"):
            terms["kdt"] = losses.DISTANCES[self.distance](words, target)
        return terms
