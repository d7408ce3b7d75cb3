"""The configuration: one YAML file, validated as a whole before anything runs.

This package imports no torch: a `snakemake -n` must answer at once.
"""

from rvlr.config import runs
from rvlr.config.base import Section
from rvlr.config.checks import DOWNLOADS
from rvlr.config.sections import (
    Augmentation,
    Cache,
    Coco,
    Custom,
    Dataset,
    Evaluation,
    Flickr30K,
    Model,
    PublicSet,
    Relevance,
    Scoring,
    Shapes,
    SingleModalTeacher,
    SplitRatio,
    Student,
    StudentWeights,
    Teacher,
    TeacherWeights,
    Text,
    TextSettings,
    TrainedTeacher,
    Training,
    Triple,
    Vision,
    VisionSettings,
    VizWiz,
)
from rvlr.config.sources import Source, Sources
from rvlr.config.study import Study, check_files, load, parse, refuse, to_yaml

__all__ = [
    "DOWNLOADS",
    "Augmentation",
    "Cache",
    "Coco",
    "Custom",
    "Dataset",
    "Evaluation",
    "Flickr30K",
    "Model",
    "PublicSet",
    "Relevance",
    "Scoring",
    "Section",
    "Shapes",
    "SingleModalTeacher",
    "Source",
    "Sources",
    "SplitRatio",
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
    "check_files",
    "load",
    "parse",
    "refuse",
    "runs",
    "to_yaml",
]
