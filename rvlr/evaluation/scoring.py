"""A model and a split -> `Inputs` of the protocols: encode once, then re-rank the candidates.

The evaluation stage uses it, and training for its validation.
"""

import numpy as np
import torch

from rvlr import config, devices
from rvlr.data.records import Split
from rvlr.evaluation.encode import Encoded, encode
from rvlr.evaluation.inputs import Inputs
from rvlr.evaluation.rerank import rerank
from rvlr.models.retrieval import RetrievalModel


def device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if devices.usable() else "cpu")


def score(
    model: RetrievalModel,
    split: Split,
    relevance: np.ndarray | None,
    section: config.Scoring,
    image_tokens: torch.Tensor | None = None,
) -> Inputs:
    """Encode a split and re-rank its candidates. relevance (C, N): None where only recalls are wanted. image_tokens:
    see `encode`."""
    encoded = encode(model, split, section.batch_size, section.workers, image_tokens)
    return score_encoded(model, encoded, split.caption_image, relevance, section.candidates)


def score_encoded(
    model: RetrievalModel, encoded: Encoded, caption_image: np.ndarray, relevance: np.ndarray | None, candidates: int
) -> Inputs:
    """Re-rank the candidates of a split that is encoded already; caption_image (C,): the image of each caption."""
    scores_i2t, scores_t2i = rerank(model, encoded, candidates)
    shape = (len(encoded.text_embeds), len(encoded.image_embeds))
    return Inputs(
        image_embeds=encoded.image_embeds.float().cpu().numpy(),
        text_embeds=encoded.text_embeds.float().cpu().numpy(),
        scores_i2t=scores_i2t.numpy(),
        scores_t2i=scores_t2i.numpy(),
        relevance=np.broadcast_to(np.float32(0), shape) if relevance is None else relevance,
        caption_image=caption_image,
    )
