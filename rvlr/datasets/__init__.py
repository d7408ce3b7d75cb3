"""Raw data -> splits: the embedded data set, own photographs, the public data sets; checked and cached.

Each kind of data set has a module here, named by `Dataset.module`, with a function `prepare` that takes what `prepare`
below takes. Nothing else chooses between kinds.
"""

from importlib import import_module
from pathlib import Path

from rvlr.config import DOWNLOADS, Dataset
from rvlr.data.records import Check


def prepare(section: Dataset, folder: Path, downloads: Path = DOWNLOADS, check: Check | None = None) -> None:
    """Make the splits of a data set: `folder/splits`, and `folder/images` where `section.makes_images`.

    downloads: the folder that the files of `section.annotation_sources` lie below, where `rvlr.config.sources` says.
    check: called with the test split before anything is written. Raises UserError listing what is wrong with the data.
    """
    import_module(f"{__name__}.{section.module}").prepare(section, folder, downloads, check)
