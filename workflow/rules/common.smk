# Settings, and the functions that rules take their inputs and parameters from.

import json
import mimetypes
import os
import re
import shlex
import sys
from pathlib import Path

import yaml
from snakemake.logging import logger

# Stages run under the Python that runs Snakemake, also where its environment is not activated, and import the package
# that this workflow belongs to, in any working folder and any conda environment.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
for variable, first in (
    ("PATH", Path(sys.executable).parent),
    ("PYTHONPATH", ROOT),
):
    others = os.environ.get(variable, os.defpath if variable == "PATH" else "")
    if str(first) not in others.split(os.pathsep):
        os.environ[variable] = f"{first}{os.pathsep}{others}".rstrip(os.pathsep)


def fail(message):
    """End Snakemake with one message; an exception would show where in the workflow's own files it was raised."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


sys.path.insert(0, str(ROOT))
try:
    from rvlr import devices
    from rvlr.config import runs
    from rvlr.config.sources import CXC, SOURCES
    from rvlr.data import stored
    from rvlr.data.records import SPLITS
    from rvlr.errors import UserError
    from rvlr.workflow import frozen, given, outdated, terminal
except ImportError as error:
    fail(
        f"{error.name} is not installed for {sys.executable}; run: {sys.executable} -m pip install -e {ROOT}"
    )


def checked(function, *arguments):
    """What a function of the package returns; its errors end Snakemake with their message."""
    try:
        return function(*arguments)
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}; check the path and its permissions")


def read_settings():
    """The configuration, checked as a whole, with where the user's files lie."""
    # Snakemake's name for the module as which another workflow uses this one
    if __name__ is not None:
        if workflow.modifier.path_modifier.replace_prefix("results") != "results":
            fail(
                f"module {__name__}: prefix and replace_prefix move some of the workflow's files and not others; use "
                "--directory to write the results elsewhere"
            )
        # the files may hold much else, but what `base` names lies relative to one of them
        paths = workflow.configfiles if "base" in config else []
        return checked(
            given.read, config, paths, {}, [], f"config of module {__name__}"
        )
    # jobs that run on another machine get what was checked here
    arguments = sys.argv if workflow.is_main_process else []
    return checked(
        given.read,
        config,
        workflow.configfiles,
        workflow.config_settings.config,
        arguments,
    )


# A workflow that uses this one as a module decides itself what its terminal shows.
if __name__ is None and workflow.is_main_process:
    terminal.install(logger, workflow.output_settings)

SETTINGS = read_settings()
REPORTING = any(argument.partition("=")[0] == "--report" for argument in sys.argv)
DATASET = SETTINGS.dataset.name
RESULTS = f"results/{DATASET}"
DOWNLOADS = str(SETTINGS.downloads)
SECTIONS = frozen.sections(SETTINGS)

# Where the sources lie below the downloads: single files, and folders of images that are unpacked from an archive.
SOURCE_OF = {
    known.file: name for name, known in SOURCES.items() if known.folder is None
}
IMAGES_OF = {
    known.folder: name for name, known in SOURCES.items() if known.folder is not None
}


def one_of(names):
    """A pattern for wildcards that matches these names alone."""
    return "|".join(map(re.escape, names)) or "(?!)"


# The teachers whose features are extracted here.
EXTRACTED = [
    name for name in SETTINGS.teachers if name not in SETTINGS.stored_features()
]
# The runs whose models are evaluated; of other teachers it is features.
RUNS_WITH_MODELS = [*map(runs.initial, SETTINGS.models), *SETTINGS.trained_runs()]


wildcard_constraints:
    dataset=re.escape(DATASET),
    seed=r"\d+",
    split=one_of(SPLITS),
    section=one_of(SECTIONS),
    model=one_of(SETTINGS.models),
    teacher=one_of(SETTINGS.teachers),
    student=one_of(SETTINGS.students),
    run=runs.PATTERN.pattern,


# --- frozen sections ---


def section_json(wildcards):
    """A frozen section as one line of JSON."""
    return json.dumps(SECTIONS[wildcards.section], ensure_ascii=False)


def outdated_files():
    """The files that do not belong to today's settings, whatever Snakemake remembers of earlier runs."""
    # jobs that run on another machine are planned already
    if not workflow.is_main_process:
        return []
    paths = map(Path, evaluation_files())
    found = checked(outdated.find, SETTINGS, SECTIONS, Path(RESULTS), paths)
    if found and REPORTING:
        fail(
            f"{', '.join(found)}: of other settings; run the workflow before its report"
        )
    return found


def force_outdated_files(wildcards):
    """No input, but the moment to force jobs: the plan is begun, and what must run is not decided yet. Every plan with
    results in it has frozen sections in it."""
    workflow.dag.forcefiles.update(OUTDATED)
    return []


# --- fetched files ---


def source_name(wildcards):
    """The source that a file or a folder of images is made from."""
    if hasattr(wildcards, "folder"):
        return IMAGES_OF[wildcards.folder]
    return SOURCE_OF[wildcards.file]


# Snakemake reruns a job if a parameter changed, unless the parameter's function takes `output`.


def source_json(wildcards, output):
    """Where the configuration has that source fetched from, as one line of JSON."""
    name = source_name(wildcards)
    given = {name: SETTINGS.sources[name]} if name in SETTINGS.sources else {}
    return json.dumps(
        {
            name: source.model_dump(mode="json", exclude_unset=True)
            for name, source in given.items()
        }
    )


def source_file(wildcards, output):
    """The file that this is frozen to."""
    return f"{RESULTS}/config/sources/{source_name(wildcards)}.yaml"


def downloads_folder(wildcards):
    """Where everything lies that is fetched."""
    return DOWNLOADS


# --- data ---


def prepared_images():
    """The folder of images that the data set's preparation makes; own photographs stay where they are."""
    if SETTINGS.dataset.makes_images:
        return [directory("results/{dataset}/images")]
    return []


def fetched_images(wildcards):
    """The records of the folders of images that a public data set is made of; own photographs lie where they are."""
    names = SETTINGS.dataset.image_sources.values()
    return [f"{DOWNLOADS}/{SOURCES[name].folder}.json" for name in names]


def images_of_splits(wildcards):
    """What every stage that opens images reads beside a split file."""
    if SETTINGS.dataset.makes_images:
        images = [f"{RESULTS}/images"]
    elif SETTINGS.dataset.copies is not None:
        images = [f"{RESULTS}/cache"]
    else:
        # the preparation of own photographs has opened each of them
        images = [f"{RESULTS}/verified.json"] if SETTINGS.dataset.image_sources else []
    return [f"{RESULTS}/splits/dataset.json", *fetched_images(wildcards), *images]


def frozen_for_preparation(wildcards):
    """The sections that the preparation reads, or takes its options from."""
    names = ["dataset", *(["downloads"] if SETTINGS.dataset.image_sources else [])]
    return [f"{RESULTS}/config/{name}.yaml" for name in names]


def annotation_files(wildcards):
    """The captions or annotations that the preparation reads."""
    names = dict.fromkeys(SETTINGS.dataset.annotation_sources.values())
    fetched = [f"{DOWNLOADS}/{SOURCES[name].file}" for name in names]
    own = SETTINGS.dataset.own_captions
    return fetched if own is None else [*fetched, str(own)]


def rating_files(wildcards):
    """People's ratings that models are measured by."""
    if not SETTINGS.evaluation.judgements.cxc:
        return []
    return [f"{DOWNLOADS}/{SOURCES[name].file}" for name in CXC]


def ratings_option(wildcards, input):
    """The evaluation's option that names their folder."""
    if not input.ratings:
        return ""
    return shlex.join(["--cxc", str(Path(input.ratings[0]).parent)])


# --- models ---


def run_folder(wildcards, run):
    """The folder of a run of this seed."""
    return f"{RESULTS}/seed{wildcards.seed}/{run}"


def fetched_weights(model):
    """The weight files of a model, or of a single-modal teacher, that are fetched here."""
    wanted = [Path(path) for path in (model.vision.weights, model.text.weights)]
    files = [Path(DOWNLOADS, file) for file in SOURCE_OF]
    return [str(file) for file in files if {file, *file.parents} & {*wanted}]


def weights_of_model(wildcards):
    """The fetched files that an initial model is made of."""
    return fetched_weights(SETTINGS.models[wildcards.model])


def weights_of_teacher(wildcards):
    """The fetched files that a pair of single-modal models is made of."""
    if is_trained(wildcards.teacher):
        return []
    return fetched_weights(SETTINGS.teachers[wildcards.teacher])


def is_trained(teacher):
    """Whether a teacher is trained here, and not a pair of single-modal models."""
    return runs.teacher(teacher) in SETTINGS.trained_runs()


def processes_of(wildcards):
    """The GPUs that a training or an extraction asks for: one a process."""
    if hasattr(wildcards, "student"):
        return SETTINGS.students[wildcards.student].processes
    return SETTINGS.teachers[wildcards.teacher].processes


def gpu_option(wildcards, output):
    """The option of stages that run a model, if they may not do that on a CPU."""
    return "--require-gpu" if SETTINGS.gpu == "required" else ""


def check_gpu():
    """Fail where a GPU is required and there is none: not after hours, when the first stage that needs it starts. On a
    cluster, the jobs say so themselves."""
    if SETTINGS.gpu == "required" and workflow.is_main_process and workflow.local_exec:
        checked(devices.check, True)


def start_of_teacher(wildcards):
    """The model folder that a teacher's training starts from."""
    start = runs.initial(SETTINGS.teacher_model(wildcards.teacher))
    return f"{run_folder(wildcards, start)}/model"


def trained_teacher(wildcards):
    """The model folder that features are extracted from; none for a pair of single-modal models."""
    if not is_trained(wildcards.teacher):
        return []
    return f"{run_folder(wildcards, runs.teacher(wildcards.teacher))}/model"


def stored_features_of(split):
    """The function that gives the files of features from elsewhere."""

    def files_of(wildcards):
        folder = SETTINGS.stored_features()[wildcards.teacher][split]
        return [str(folder / name) for name in stored.FILES]

    return files_of


def model_option(wildcards, input):
    """The extraction's option that names a trained teacher's model folder."""
    return f"--model {input.model}" if is_trained(wildcards.teacher) else ""


def start_of_student(wildcards):
    """The model folder that a student's training starts from."""
    return f"{run_folder(wildcards, SETTINGS.start_of(wildcards.student))}/model"


def features_of_student(wildcards):
    """The stored features that a student distils."""
    teacher = runs.teacher(SETTINGS.students[wildcards.student].teacher)
    folder = f"{run_folder(wildcards, teacher)}/features"
    return [f"{folder}/{name}" for name in ("image.npy", "text.npy", "index.json")]


def test_features_of_teachers(wildcards):
    """What teachers that are not trained know of the test split, with which every model is compared."""
    folders = [
        f"{run_folder(wildcards, run)}/features-test" for run in SETTINGS.feature_runs()
    ]
    names = ("index.json", "image.npy", "text.npy")
    return [f"{folder}/{name}" for folder in folders for name in names]


def teacher_options(wildcards, input):
    """The evaluation's options that name the folders of these features."""
    runs_of = {
        run: f"{run_folder(wildcards, run)}/features-test"
        for run in SETTINGS.feature_runs()
    }
    return " ".join(
        f"--teacher {runs.name(run)}={folder}" for run, folder in runs_of.items()
    )


def training_of(wildcards):
    """The settings of a teacher's or a student's training."""
    if hasattr(wildcards, "student"):
        return SETTINGS.students[wildcards.student].training
    return SETTINGS.teachers[wildcards.teacher].training


def relevance_of_val(wildcards):
    """The relevance that a training selects its weights by, where it does."""
    if training_of(wildcards).selected_by != "balanced":
        return []
    return [f"{RESULTS}/relevance/val.npy", f"{RESULTS}/relevance/val.json"]


def relevance_option(wildcards, input):
    """The training's option that names the relevance matrix of val."""
    return f"--relevance {input.relevance[0]}" if input.relevance else ""


def features_folder(wildcards, input):
    """The folder of those features."""
    return str(Path(input.features[0]).parent)


# --- results ---


def scene_relevance(wildcards):
    """The relevance by scenes, if models are judged by it, too."""
    if not SETTINGS.evaluation.scene_relevance:
        return []
    return multiext(f"{RESULTS}/relevance/scenes-test", ".npy", ".json")


def scenes_option(wildcards, input):
    """The evaluation's option that names that matrix."""
    return f"--scenes {input.scenes[0]}" if input.scenes else ""


def evaluation_files():
    """Every test result of every seed."""
    return expand(
        f"{RESULTS}/seed{{seed}}/{{run}}/eval/test.json",
        seed=SETTINGS.seeds,
        run=SETTINGS.evaluated_runs(),
    )


def rankings_files():
    """What each model retrieves and its values query by query, beside every test result."""
    return [path.replace("test.json", "rankings.npz") for path in evaluation_files()]


def metrics_files():
    """The training records that the loss curves are drawn from, of every seed."""
    return expand(
        f"{RESULTS}/seed{{seed}}/{{run}}/metrics.jsonl",
        seed=SETTINGS.seeds,
        run=SETTINGS.trained_runs(),
    )


def summary_files():
    """The tables; the first is shown at the end of the run."""
    summary = multiext(f"{RESULTS}/summary", ".txt", ".md", ".csv", ".html")
    return [*summary, f"{RESULTS}/comparisons.csv"]


def figure_files():
    """The figures; sheets show the first seed, and differences need two trained runs."""
    figures = [f"{RESULTS}/figures/losses.png", f"{RESULTS}/figures/three-ways.png"]
    if len(SETTINGS.trained_runs()) > 1:
        figures.append(f"{RESULTS}/figures/differences.png")
    if SETTINGS.evaluation.queries_shown:
        kinds = ("cross-modal", "single-modal")
        figures += expand(
            f"{RESULTS}/figures/{{run}}-{{kind}}.png",
            run=SETTINGS.trained_runs(),
            kind=kinds,
        )
    return figures


def print_summary():
    """Show the table at the end of the run, if it is of these results."""
    table = Path(summary_files()[0])
    made_from = [f"{RESULTS}/config/{name}.yaml" for name in SECTIONS]
    made_from += [*evaluation_files(), *metrics_files()]
    times = [path.stat().st_mtime for path in map(Path, made_from) if path.exists()]
    if table.exists() and table.stat().st_mtime >= max(times, default=0):
        print(
            table.read_text(encoding="utf-8"),
            f"Figures: {RESULTS}/figures",
            sep="\n",
            file=sys.stderr,
        )


OUTDATED = outdated_files()
if REPORTING:
    from rvlr.report import overview

    mimetypes.add_type("application/yaml", ".yaml")  # or Snakemake warns of each file
    # what the templates in workflow/report show; they see the configuration and nothing else
    config["report_pages"] = {
        "first": checked(
            overview.page, Path(RESULTS), [*map(Path, evaluation_files())]
        ),
        "sections": {
            name: yaml.safe_dump(section, sort_keys=False, allow_unicode=True)
            for name, section in SECTIONS.items()
        },
    }
