"""Re-ranking compared with the obvious implementation, in one run: `python benchmarks/rerank.py MODEL SPLIT`.

The obvious implementation works query by query, as the published code does: first the candidates of each image, then
those of each caption. It pads every caption to the longest, projects the image's keys and values again for every
candidate, and puts all tokens through all layers. Prints the pairs per second of both implementations, the ratio, and
the largest difference between their scores.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from rvlr.data.records import read_split
from rvlr.evaluation.encode import Encoded, encode
from rvlr.evaluation.inputs import NOT_A_CANDIDATE
from rvlr.evaluation.rerank import rerank
from rvlr.models.retrieval import RetrievalModel


@torch.inference_mode()
def obvious(model: RetrievalModel, encoded: Encoded, candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The score matrices of `rerank`, image->text (N, C) and text->image (C, N), one query at a time."""
    lengths = encoded.text_offsets.diff()
    padded = torch.nn.utils.rnn.pad_sequence(list(encoded.text_tokens.split(lengths.tolist())), batch_first=True)
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    similarity = encoded.image_embeds @ encoded.text_embeds.T
    matrices = []
    for scores_of, by_image in ((similarity, True), (similarity.T, False)):
        scores = torch.full(scores_of.shape, NOT_A_CANDIDATE)
        for query, row in enumerate(scores_of):
            found = row.topk(min(candidates, len(row))).indices
            images = torch.full_like(found, query) if by_image else found
            captions = found if by_image else torch.full_like(found, query)
            keys_values = model.image_keys_values(encoded.image_tokens[images])
            fused = model.fuse(padded[captions], mask[captions], keys_values)
            scores[query, found] = model.match(fused[:, 0])[:, 1]
        matrices.append(scores)
    return matrices[0], matrices[1]


def main() -> None:
    """Measure both and print the comparison."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder, such as results/shapes/seed0/student-rvlr/model")
    parser.add_argument("split", type=Path, help="split file, such as results/shapes/splits/test.jsonl")
    parser.add_argument("--candidates", type=int, default=32)
    arguments = parser.parse_args()
    model = RetrievalModel.from_pretrained(arguments.model)
    encoded = encode(model, read_split(arguments.split), batch_size=64, workers=0)
    results, seconds = [], []
    for implementation in (rerank, obvious):
        begun = time.perf_counter()
        results.append(implementation(model, encoded, arguments.candidates))
        seconds.append(time.perf_counter() - begun)
    pairs = sum(int((matrix != NOT_A_CANDIDATE).sum()) for matrix in results[0])
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in zip(*results, strict=True))
    sys.stdout.write(
        f"{pairs:,} scores; rvlr {pairs / seconds[0]:,.0f}/s, obvious {pairs / seconds[1]:,.0f}/s\n"
        f"ratio {seconds[1] / seconds[0]:.1f}, largest difference {difference:.1e}\n"
    )


if __name__ == "__main__":
    main()
