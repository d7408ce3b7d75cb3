# Settings and the functions that rules take their inputs and parameters from.

import json
import os
import re
import sys
from pathlib import Path

import yaml

from rvlr import config as rvlr_config
from rvlr import files, provenance
from rvlr.config import sources as rvlr_sources
from rvlr.data.records import SPLITS
from rvlr.errors import UserError
from rvlr.report import consistency
from rvlr.workflow import frozen, given, places

# Stages run under the Python that runs Snakemake, also where its environment is not activated.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
)


def fail(message):
    """End Snakemake with one message; an exception would show where in the workflow's own files it was raised."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def read_settings():
    """The configuration, checked as a whole, with where the user's files lie."""
    # jobs that run on another machine get what was checked here
    arguments = sys.argv if workflow.is_main_process else []
    try:
        return given.read(
            config, workflow.configfiles, workflow.config_settings.config, arguments
        )
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}; check the path and its permissions")


SETTINGS = read_settings()
DATASET = SETTINGS.dataset.name
RESULTS = f"results/{DATASET}"
DOWNLOADS = str(SETTINGS.downloads)
SOURCES = f"{RESULTS}/config/sources.yaml"

# Where the sources lie below the downloads: single files, and folders of images that are unpacked from an archive.
SOURCE_OF = {
    known.file: name
    for name, known in rvlr_sources.SOURCES.items()
    if known.folder is None
}
IMAGES_OF = {
    known.folder: name
    for name, known in rvlr_sources.SOURCES.items()
    if known.folder is not None
}


def one_of(names):
    """A pattern for wildcards that matches these names alone."""
    return "|".join(map(re.escape, names)) or "(?!)"


def is_trained(teacher):
    """Whether a teacher is trained here, and not a pair of single-modal models."""
    return SETTINGS.teachers[teacher].kind == "retrieval"


SECTIONS = frozen.sections(SETTINGS)


wildcard_constraints:
    dataset=rvlr_config.runs.NAME,
    seed=r"\d+",
    split="|".join(SPLITS),
    section=one_of(SECTIONS),
    model=one_of(SETTINGS.models),
    teacher=one_of(SETTINGS.teachers),
    student=one_of(SETTINGS.students),
    run=rvlr_config.runs.PATTERN.pattern,


def section_json(wildcards):
    """A frozen section as one line of JSON."""
    return json.dumps(SECTIONS[wildcards.section], ensure_ascii=False)


def processes_of(wildcards):
    """The GPUs that a training or an extraction asks for: one a process."""
    if hasattr(wildcards, "student"):
        return SETTINGS.students[wildcards.student].processes
    return SETTINGS.teachers[wildcards.teacher].processes


def prepared_images():
    """The folder of images that the data set's preparation makes; own photographs stay where they are."""
    return (
        [directory("results/{dataset}/images")]
        if SETTINGS.dataset.makes_images
        else []
    )


def source_name(wildcards):
    """The source that a file or a folder of images is made from."""
    if hasattr(wildcards, "folder"):
        return IMAGES_OF[wildcards.folder]
    return SOURCE_OF[wildcards.file]


def downloads_folder(wildcards):
    """Where everything lies that is fetched."""
    return DOWNLOADS


def write_sources():
    """Write the configuration's sources for the fetching rules; what is there already is left alone."""
    sources = {
        name: source.model_dump(mode="json", exclude_unset=True)
        for name, source in SETTINGS.sources.items()
    }
    try:
        if frozen.read(Path(SOURCES)) != sources:
            files.write_text(Path(SOURCES), yaml.safe_dump(sources))
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(
            f"{SOURCES}: {error.strerror}; the results are written there, make it possible or choose another folder"
        )


def fetched_images(wildcards):
    """The records of the folders of images that a public data set is made of; own photographs lie where they are."""
    names = SETTINGS.dataset.image_sources.values()
    return [f"{DOWNLOADS}/{rvlr_sources.SOURCES[name].folder}.json" for name in names]


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


def source_files(wildcards):
    """The annotations that the preparation reads."""
    names = dict.fromkeys(SETTINGS.dataset.annotation_sources.values())
    fetched = [f"{DOWNLOADS}/{rvlr_sources.SOURCES[name].file}" for name in names]
    own = SETTINGS.dataset.own_captions
    return fetched if own is None else [*fetched, str(own)]


def weights_of(model):
    """The weight files of a model, or of a single-modal teacher, that are fetched here."""
    folders = (f"{path}/" for path in (model.vision.weights, model.text.weights))
    wanted = tuple(
        folder.removeprefix(f"{DOWNLOADS}/")
        for folder in folders
        if folder.startswith(f"{DOWNLOADS}/")
    )
    return [
        f"{DOWNLOADS}/{file}" for file in SOURCE_OF if f"{file}/".startswith(wanted)
    ]


def weights_of_model(wildcards):
    """The fetched files that an initial model is made of."""
    return weights_of(SETTINGS.models[wildcards.model])


def weights_of_teacher(wildcards):
    """The fetched files that a pair of single-modal models is made of."""
    if is_trained(wildcards.teacher):
        return []
    return weights_of(SETTINGS.teachers[wildcards.teacher])


def start_of_teacher(wildcards):
    """The model folder that a teacher's training starts from."""
    name = SETTINGS.teacher_model(wildcards.teacher)
    return f"results/{wildcards.dataset}/seed{wildcards.seed}/{rvlr_config.runs.initial(name)}/model"


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
    """The training records that the loss curves are drawn from: those of the first seed."""
    return expand(
        f"{RESULTS}/seed{SETTINGS.seeds[0]}/{{run}}/metrics.jsonl",
        run=SETTINGS.trained_runs(),
    )


def summary_files():
    """The tables; the first is shown at the end of the run."""
    summary = multiext(f"{RESULTS}/summary", ".txt", ".md", ".csv")
    return [*summary, f"{RESULTS}/comparisons.csv"]


def figure_files():
    """The figures; sheets show the first seed."""
    figures = [f"{RESULTS}/figures/losses.png", f"{RESULTS}/figures/three-ways.png"]
    if SETTINGS.evaluation.queries_shown:
        kinds = ("cross-modal", "single-modal")
        figures += expand(
            f"{RESULTS}/figures/{{run}}-{{kind}}.png",
            run=SETTINGS.trained_runs(),
            kind=kinds,
        )
    return figures


def to_be_made_again():
    """The files that do not belong to today's settings, whatever Snakemake remembers of earlier runs. Ends with a message
    where a result is not what it says it is."""
    # jobs that run on another machine are planned already
    if not workflow.is_main_process:
        return []
    try:
        places.check_folders(Path(RESULTS))
    except UserError as error:
        fail(error)
    differing = frozen.differing(SECTIONS, Path(f"{RESULTS}/config"))
    differing += replaced_captions()
    mismatches = [] if differing else list(disagreeing_records())
    wrong = [one for one in mismatches if not one.outdated]
    if wrong:
        fail("\n".join([*dict.fromkeys(map(str, wrong)), consistency.remedy(wrong)]))
    again = sorted(
        {str(path) for path in (*differing, *(one.path for one in mismatches))}
    )
    if again and any(argument.partition("=")[0] == "--report" for argument in sys.argv):
        fail(
            f"{', '.join(again)}: of other settings; run the workflow before its report"
        )
    return again


def replaced_captions():
    """The record of a preparation that read another captions file than the one that lies there now, which may be older,
    as a copy brought back is."""
    record = Path(f"{RESULTS}/splits/dataset.json")
    if SETTINGS.dataset.own_captions is None or not record.exists():
        return []
    try:
        digest = files.read_json(record).get("captions_sha256")
    except UserError:
        return [record]
    return [record] if digest != provenance.sha256(SETTINGS.dataset.own_captions) else []


def force_to_be_made_again(wildcards):
    """No input, but the moment to force jobs: the plan is begun, and what must run is not decided yet. Every plan with
    results in it has frozen sections in it."""
    workflow.dag.forcefiles.update(AGAIN)
    return []


def disagreeing_records():
    """What the records of results disagree with, as far as small files tell."""
    for path in map(Path, evaluation_files()):
        if not path.exists():
            continue
        try:
            record = consistency.read_evaluation(path)
        except UserError as error:
            fail(f"{error}: rm {path}; snakemake")
        try:
            yield from consistency.evaluation_mismatches(path, record, large=False)
        except UserError as error:
            fail(error)


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


AGAIN = to_be_made_again()
