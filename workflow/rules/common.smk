# Settings and the functions that rules take their inputs and parameters from.

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from rvlr import config as rvlr_config
from rvlr.data.records import SPLITS
from rvlr.errors import UserError

# Stages run under the Python that runs Snakemake, also where its environment is not activated.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
)

try:
    SETTINGS = rvlr_config.parse(config, "configuration")
except UserError as error:
    raise WorkflowError(str(error)) from None

DATASET = SETTINGS.dataset.name
RESULTS = f"results/{DATASET}"


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    seed=r"\d+",
    split="|".join(SPLITS),
    model="|".join(map(re.escape, SETTINGS.models)),
    teacher="|".join(map(re.escape, SETTINGS.teachers)) or "(?!)",
    student="|".join(map(re.escape, SETTINGS.students)) or "(?!)",
    run=r"(initial|teacher|student)-[A-Za-z0-9][A-Za-z0-9._-]*",


def section_json(wildcards):
    """The settings of one stage as one line of JSON, defaults filled in."""
    kind, _, name = wildcards.section.partition("-")
    evaluation = SETTINGS.evaluation
    sections = {
        "dataset": lambda: SETTINGS.dataset,
        "relevance": lambda: evaluation.relevance,
        "evaluation": lambda: rvlr_config.Scoring(
            **{
                field: getattr(evaluation, field)
                for field in rvlr_config.Scoring.model_fields
            }
        ),
        "initial": lambda: SETTINGS.models[name],
        "teacher": lambda: SETTINGS.teachers[name],
        "student": lambda: SETTINGS.students[name],
    }
    return sections[kind]().to_json()


def is_trained(teacher):
    """Whether a teacher is trained here, and not a pair of single-modal models."""
    return SETTINGS.teachers[teacher].kind == "retrieval"


def processes_of(wildcards):
    """The GPUs that a training or an extraction asks for: one a process."""
    if hasattr(wildcards, "student"):
        return SETTINGS.students[wildcards.student].training.processes
    teacher = SETTINGS.teachers[wildcards.teacher]
    return (
        teacher.training.processes
        if is_trained(wildcards.teacher)
        else teacher.processes
    )


def prepared_images():
    """The folder of images that the data set's preparation makes; own photographs stay where they are."""
    return (
        [directory("results/{dataset}/images")]
        if SETTINGS.dataset.kind == "shapes"
        else []
    )


def images_of_splits(wildcards):
    """What every stage that opens images reads beside a split file."""
    images = [f"{RESULTS}/images"] if SETTINGS.dataset.kind == "shapes" else []
    return [f"{RESULTS}/splits/dataset.json", *images]


def source_files(wildcards):
    """The user's files that the preparation reads."""
    return [str(SETTINGS.dataset.captions)] if SETTINGS.dataset.kind == "custom" else []


def start_of_teacher(wildcards):
    """The model folder that a teacher's training starts from."""
    name = SETTINGS.teacher_model(wildcards.teacher)
    return f"results/{wildcards.dataset}/seed{wildcards.seed}/initial-{name}/model"


def trained_teacher(wildcards):
    """The model folder that features are extracted from; none for a pair of single-modal models."""
    if not is_trained(wildcards.teacher):
        return []
    return f"results/{wildcards.dataset}/seed{wildcards.seed}/teacher-{wildcards.teacher}/model"


def model_option(wildcards, input):
    """The extraction's option that names a trained teacher's model folder."""
    return f"--model {input.model}" if is_trained(wildcards.teacher) else ""


def start_of_student(wildcards):
    """The model folder that a student's training starts from."""
    run = SETTINGS.start_of(wildcards.student)
    return f"results/{wildcards.dataset}/seed{wildcards.seed}/{run}/model"


def features_of_student(wildcards):
    """The stored features that a student distils."""
    teacher = SETTINGS.students[wildcards.student].teacher
    folder = (
        f"results/{wildcards.dataset}/seed{wildcards.seed}/teacher-{teacher}/features"
    )
    return [f"{folder}/{name}" for name in ("image.npy", "text.npy", "index.json")]


def features_folder(wildcards, input):
    """The folder of those features."""
    return str(Path(input.features[0]).parent)


def trained_runs():
    """The runs that are trained, in the order of the summary."""
    teachers = [f"teacher-{name}" for name in SETTINGS.teachers if is_trained(name)]
    return teachers + [f"student-{name}" for name in SETTINGS.students]


def evaluated_runs():
    """The runs that are evaluated: untrained models, if wanted, teachers, students."""
    used = [
        SETTINGS.teacher_model(name) for name in SETTINGS.teachers if is_trained(name)
    ]
    used += [
        start.removeprefix("initial-")
        for start in map(SETTINGS.start_of, SETTINGS.students)
        if start.startswith("initial-")
    ]
    untrained = (
        [f"initial-{name}" for name in dict.fromkeys(used)]
        if SETTINGS.evaluation.untrained
        else []
    )
    return untrained + trained_runs()


def evaluation_files():
    """Every test result of every seed."""
    return expand(
        f"{RESULTS}/seed{{seed}}/{{run}}/eval/test.json",
        seed=SETTINGS.seeds,
        run=evaluated_runs(),
    )


def metrics_files():
    """The training records that the loss curves are drawn from: those of the first seed."""
    return expand(
        f"{RESULTS}/seed{SETTINGS.seeds[0]}/{{run}}/metrics.jsonl", run=trained_runs()
    )


def summary_files():
    """The tables."""
    return multiext(f"{RESULTS}/summary", ".csv", ".md", ".txt")


def figure_files():
    """The figures; sheets show the first seed."""
    figures = [f"{RESULTS}/figures/losses.png", f"{RESULTS}/figures/three-ways.png"]
    if SETTINGS.evaluation.queries_shown:
        kinds = ("cross-modal", "single-modal")
        figures += expand(
            f"{RESULTS}/figures/{{run}}-{{kind}}.png", run=trained_runs(), kind=kinds
        )
    return figures


def print_summary():
    """Show the table at the end of the run."""
    table = Path(summary_files()[2])
    if table.exists():
        print(
            table.read_text(encoding="utf-8"),
            f"Figures: {RESULTS}/figures",
            sep="\n",
            file=sys.stderr,
        )
