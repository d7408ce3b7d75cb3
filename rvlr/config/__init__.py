"""The configuration: one YAML file, validated as a whole before anything runs.

Defaults are the published values of docs/METHOD.md where there is one; the docstring of a field describes its key.
This package imports no torch: a `snakemake -n` must answer at once.
"""

from rvlr.config import runs
from rvlr.config.base import Section, Triple
from rvlr.config.checks import DOWNLOADS
from rvlr.config.datasets import (
    AnyDataset,
    Cache,
    Coco,
    Custom,
    Dataset,
    Flickr30K,
    PublicSet,
    Shapes,
    SplitRatio,
    VizWiz,
)
from rvlr.config.evaluation import Evaluation, Judgements, Relevance, Scoring
from rvlr.config.models import Model, Text, TextSettings, Vision, VisionSettings
from rvlr.config.sources import Origin, Source, Sources
from rvlr.config.study import Study, lay_over_bases, load, merge, parse, refuse, to_yaml
from rvlr.config.training import (
    AnyTeacher,
    Augmentation,
    SingleModalTeacher,
    StoredTeacher,
    Student,
    StudentWeights,
    Teacher,
    TeacherWeights,
    TrainedTeacher,
    Training,
)

__all__ = [
    "DOWNLOADS",
    "AnyDataset",
    "AnyTeacher",
    "Augmentation",
    "Cache",
    "Coco",
    "Custom",
    "Dataset",
    "Evaluation",
    "Flickr30K",
    "Judgements",
    "Model",
    "Origin",
    "PublicSet",
    "Relevance",
    "Scoring",
    "Section",
    "Shapes",
    "SingleModalTeacher",
    "Source",
    "Sources",
    "SplitRatio",
    "StoredTeacher",
    "Student",
    "StudentWeights",
    "Study",
    "Teacher",
    "TeacherWeights",
    "Text",
    "TextSettings",
    "TrainedTeacher",
    "Training",
    "Triple",
    "Vision",
    "VisionSettings",
    "VizWiz",
    "lay_over_bases",
    "load",
    "merge",
    "parse",
    "refuse",
    "runs",
    "to_yaml",
]
