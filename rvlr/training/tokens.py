"""Image tokens of a frozen vision encoder, computed once for each training image instead of once a step.

They are the same in every step where images are not augmented. The rows are read from a memory map, since those of a
large data set do not fit into the memory.
"""

from pathlib import Path

import numpy as np

from rvlr import arrays
from rvlr.config import Training
from rvlr.data.records import Split
from rvlr.distributed import Processes
from rvlr.evaluation.encode import encode_images
from rvlr.log import logger
from rvlr.models.retrieval import RetrievalModel


def image_tokens(
    model: RetrievalModel, split: Split, training: Training, path: Path, group: Processes
) -> np.ndarray | None:
    """Tokens (images, 1 + N, image width), float32, of all images of a split, which the main process writes to `path`
    and every process reads; None where they change during training, because of the encoder or of augmentation.

    Raises UserError for images that cannot be read and for a disk that is too small.
    """
    if not model.config.vision.frozen or training.augmentation is not None:
        return None

    def write() -> tuple[int, ...]:
        written, rows = 0, None
        for tokens in encode_images(model, split, training.batch_size, training.workers):
            if rows is None:
                rows = arrays.create(path, (len(split.records), *tokens.shape[1:]))
            rows[written : written + len(tokens)] = tokens.float().cpu().numpy()
            written += len(tokens)
        assert rows is not None  # a split has images
        rows.flush()
        return rows.shape

    shape = group.by_main(write, "the tokens of the frozen vision encoder")
    logger.info("the frozen vision encoder has encoded %d images once, %d tokens each", *shape[:2])
    rows: np.ndarray = np.load(path, mmap_mode="r")
    return rows
