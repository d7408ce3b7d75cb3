"""The configuration: unknown keys refused, all faults at once with their keys, defaults, references."""

import datetime
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from conftest import ROOT, shipped
from snakemake.utils import update_config
from typer.testing import CliRunner

from rvlr import config
from rvlr.cli import app
from rvlr.config import document
from rvlr.config.sources import SOURCES, resolve
from rvlr.errors import UserError
from rvlr.workflow import disk

MINIMAL = {
    "dataset": "shapes",
    "models": {"base": {}},
    "teachers": {"t": None},
    "students": {"s": {"teacher": "t"}},
}


def faults_of(**changes: object) -> str:
    with pytest.raises(UserError) as raised:
        config.parse({**MINIMAL, **changes}, "my.yaml")
    return str(raised.value)


def test_defaults_are_the_published_values() -> None:
    found = config.parse(MINIMAL, "my.yaml")
    assert found.students["s"].weights.model_dump() == {
        "itc": 1, "itm": 2, "iic": 1, "ttc": 2, "kd": 2, "kdi": 1, "kdt": 1, "rdi": 0, "rdt": 0,
    }  # fmt: skip
    training = found.teachers["t"].training
    assert (training.betas, training.eps, training.weight_decay, training.lr_mult) == (
        (0.9, 0.98),
        1e-8,
        0.01,
        2,
    )
    assert (training.epochs, training.batch_size, training.warmup, training.max_words) == (10, 36, 0.1, 60)
    assert found.models["base"].text.max_words == 30
    assert found.evaluation.candidates == 128


def test_all_faults_are_reported_together_with_their_keys() -> None:
    message = faults_of(
        dataset={"kind": "shapes", "trian": 3},
        models={"base": {"vision": {"image_size": "big"}, "text": {"weights": "random"}}},
        teachers={"t": {"weights": {"itc": -1}, "training": {"epochs": 0, "batch_size": 7, "processes": 2}}},
        students={"s": {"teacher": "nobody"}, "bad name!": {"teacher": "t"}},
        evalution={},
    )
    for key in (
        "my.yaml: 8 faults",
        "dataset.trian: unknown key",
        "models.base.vision.image_size: ",
        "found 'big'",
        "models.base.text: weights is 'random' and size is missing",
        "teachers.t.weights.itc: ",
        "teachers.t.training.epochs: ",
        "students.bad name!",
        "students.s.teacher: no teacher 'nobody'; defined: t",
        "evalution: unknown key",
    ):
        assert key in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": "coco-typo"}, "dataset.kind: found 'coco-typo'"),
        ({"dataset": {"kind": "custom"}}, "dataset.images: missing"),
        (
            {
                "dataset": {
                    "kind": "custom",
                    "images": "i",
                    "captions": "c",
                    "split": {"val": 0.5, "test": 0.5},
                }
            },
            "val + test",
        ),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"models": {}}, "models"),
        ({"models": {"a": {}, "b": {}}}, "teachers.t.model: missing; choose one of a, b"),
        ({"teachers": {"base": None}, "students": {}}, "'base' stands for a model and a teacher"),
        ({"teachers": {"t": {"model": "other"}}}, "teachers.t.model: no model 'other'; defined: base"),
        (
            {"students": {"s": {"teacher": "t", "start": "x"}}},
            "students.s.start: no model or trained teacher 'x'; defined: base, t",
        ),
        ({"teachers": {"t": {"weights": {"itc": 0, "itm": 0}}}}, "all weights are 0"),
        ({"training": {"augmentation": {"scale": [0.9, 0.5]}}}, "smallest <= largest"),
        ({"training": {"batch_size": 6, "processes": 4}}, "the same number of captions"),
        ({"training": {"processes": 2}}, "itm_pool: missing; processes is 2, so say how many pairs matching negatives"),
        ({"training": {"processes": 3}}, "one of 2, 3, 4, 6, 12, which divide the 12 captions of each process"),
        (
            {"training": {"processes": 2, "itm_pool": 36}},
            "itm_pool: 36 does not divide the 18 captions that each of the 2",
        ),
        ({"training": {"itm_pool": 24}}, "use one of 2, 3, 4, 6, 9, 12, 18, 36"),
        ({"training": {"itm_pool": 1}}, "training.itm_pool: "),
        ({"training": {"learning_rate": "fast"}}, "learning_rate"),
        ({"evaluation": {"candidates": 0}}, "evaluation.candidates"),
        ({"training": {"betas": [0.9, 1.0]}}, "training.betas[1]: found 1.0; give a number from 0, below 1"),
        ({"training": {"epocs": 3}}, "my.yaml: 1 fault in the configuration\n  training.epocs: unknown key"),
        ({"students": {"s": {"teacher": "t", "distance": "wd", "weights": {"kd": 0}}}}, "give kd a weight"),
        ({"teachers": {}}, "teachers"),
        (
            {"teachers": {"p": {"kind": "single-modal", "vision": {}, "text": {"weights": "b"}}}, "students": {}},
            "there is nothing to do",
        ),
        ({"teachers": {"t": {"kind": "singel-modal"}}}, "teachers.t.kind: found 'singel-modal' (text); give one of"),
    ],
)
def test_faults_name_the_key(changes: dict, expected: str) -> None:
    assert expected in faults_of(**changes)


def test_shared_training_settings_lie_under_each_run() -> None:
    shared = {"epochs": 3, "augmentation": {"flip": False}}
    own = {"epochs": 5, "augmentation": {"scale": [0.7, 1]}}
    found = config.parse({**MINIMAL, "training": shared, "students": {"s": {"teacher": "t", "training": own}}}, "x")
    assert (found.teachers["t"].training.epochs, found.students["s"].training.epochs) == (3, 5)
    augmentation = found.students["s"].training.augmentation
    assert (augmentation.flip, augmentation.scale) == (False, (0.7, 1.0))


def test_starts() -> None:
    pair = {"kind": "single-modal", "vision": {"name": "resnet18"}, "text": {"weights": "bert"}}
    students = {"a": {"teacher": "t"}, "b": {"teacher": "pair"}, "c": {"teacher": "pair", "start": "t"}}
    found = config.parse({**MINIMAL, "teachers": {"t": None, "pair": pair}, "students": students}, "x")
    assert [found.start_of(name) for name in "abc"] == ["teacher-t", "initial-base", "teacher-t"]


SHIPPED = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
LAYERS = ("paper", "published")
"""What is laid over or under other files, and is no study by itself."""
PUBLIC = ("coco", "flickr30k", "vizwiz")


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in LAYERS])
def test_every_shipped_configuration_is_valid_but_for_the_users_paths(name: str) -> None:
    data = shipped(name)
    if isinstance(data["dataset"], dict) and data["dataset"]["kind"] == "custom":
        data["dataset"] |= {"images": "somewhere", "captions": "somewhere.csv"}
    config.parse(data, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_configurations_carry_the_published_values(name: str) -> None:
    """docs/METHOD.md, "Model", "Losses", "Training", "Evaluation"."""
    found = config.parse(shipped(name), name)
    vision, text = found.models["base"].vision, found.models["base"].text
    assert (vision.name, vision.image_size) == ("swin_base_patch4_window12_384", 384)
    assert vision.options == {"drop_path_rate": 0.1}
    assert Path(vision.weights).name == "swin_base_patch4_window7_224_22k.pth"
    assert (vision.mean[0], vision.std[0]) == (0.48145466, 0.26862954)
    assert (text.text_layers, text.fusion_layers, text.max_words) == (6, 6, 30)
    assert text.max_tokens == (60 if name == "flickr30k" else 40)
    assert found.models["base"].embed_dim == 256
    assert (found.models["base"].temperature, found.models["base"].relation_temperature) == (0.07, 0.07)
    for run in (found.teachers["itc-itm"], *found.students.values()):
        training = run.training
        assert training.learning_rate == (3e-5 if name == "coco" else 5e-5)
        assert (training.epochs, training.batch_size, training.processes, training.itm_pool) == (10, 36, 2, 18)
        assert (training.betas, training.eps, training.weight_decay) == ((0.9, 0.98), 1e-8, 0.01)
        assert (training.warmup, training.lr_mult, training.max_words, training.clip_norm) == (0.1, 2, 60, None)
        assert (training.augmentation.scale, training.augmentation.flip) == ((0.5, 1.0), True)
        assert training.augmentation.randaugment == config.Augmentation().randaugment
    assert found.teachers["itc-itm"].weights.model_dump() == {"itc": 1, "itm": 2}
    student = found.students["rvlr"]
    assert list(student.weights.model_dump().values()) == [1, 2, 1, 2, 2, 1, 1, 0, 0]
    assert (student.distance, student.fusion_weight.value, student.fusion_weight.learnt) == ("mae", 0.5, True)
    assert sum(map(bool, found.students["continued"].weights.model_dump().values())) == 2
    assert found.evaluation.candidates == (256 if name == "coco" else 128)
    assert found.dataset.captions_per_image == 5


@pytest.mark.parametrize("name", PUBLIC)
def test_the_papers_ablations_lie_over_each_public_configuration(name: str) -> None:
    base, ablations = shipped(name), shipped("paper")
    assert ablations.keys() == {"students"}
    students = config.parse({**base, "students": {**base["students"], **ablations["students"]}}, name).students
    assert {student.distance for student in students.values()} == {"mae", "mse", "cumulative", "wasserstein"}
    fixed = {one.fusion_weight.value for one in students.values() if not one.fusion_weight.learnt}
    assert fixed == {0, 0.25, 0.5, 0.75, 1}
    published = [term for term, weight in students["rvlr"].weights.model_dump().items() if weight]
    assert len(published) == 7
    for term in published:
        assert students[f"no-{term}"].weights.model_dump() == {**students["rvlr"].weights.model_dump(), term: 0}


@pytest.mark.parametrize(
    ("name", "studies"), [("own-photos", ["photos"]), ("own-photos", ["photos", "ablations"]), ("config", ["shapes"])]
)
def test_the_studies_lie_over_the_files_that_they_name(name: str, studies: list[str]) -> None:
    data = shipped(name)
    if name == "own-photos":
        data["dataset"] |= {"images": "somewhere", "captions": "somewhere.csv"}
    for study in studies:
        update_config(data, yaml.safe_load((ROOT / f"config/studies/{study}.yaml").read_text()))
    found = config.parse(data, name)
    assert {"rvlr", "published", "continued"} <= found.students.keys()
    assert len(found.seeds) == (5 if studies == ["photos"] else 3)
    assert sum(map(bool, found.students["continued"].weights.model_dump().values())) == 2


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_in_the_documentation(name: str) -> None:
    text, known = (ROOT / "config/README.md").read_text(), SOURCES[name]
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    assert known.about in row
    assert known.terms in row
    assert all(urlsplit(address).hostname in row for address in known.origin.addresses)
    assert (known.origin.checksum or ":").partition(":")[0] in row
    assert config.Origin(**known.origin.model_dump()) == known.origin


def test_sources_are_laid_over_the_table_key_by_key() -> None:
    address = "http://mirror.example/train2014.zip"
    known = SOURCES["coco-train2014"].origin
    mirror = resolve("coco-train2014", config.Origin(addresses=[address]))
    assert (mirror.addresses, mirror.size, mirror.checksum) == ([address], known.size, known.checksum)
    at_hand = resolve("coco-train2014", config.Origin(existing=Path("x.zip"), checksum=None))
    assert (at_hand.addresses, at_hand.size, at_hand.checksum) == ([], known.size, None)
    assert resolve("coco-train2014", None) == known


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ({"coco-traan2014": {}}, "sources.coco-traan2014: no source has this name; known: coco-train2014, "),
        ({"coco-val2014": {"adresses": []}}, "sources.coco-val2014.adresses: unknown key"),
        ({"coco-val2014": {"addresses": ["ftp://host/file"]}}, "sources.coco-val2014.addresses[0]: "),
        ({"coco-val2014": {"checksum": "md5:123"}}, "sources.coco-val2014.checksum: "),
        ({"coco-val2014": {"size": 0}}, "sources.coco-val2014.size: "),
        ({"coco-val2014": {"existing": "x", "addresses": ["http://a/b"]}}, "existing and addresses are both given"),
    ],
)
def test_faults_of_sources(source: dict[str, Any], fault: str) -> None:
    assert fault in faults_of(sources=source)


@pytest.mark.parametrize(
    ("dataset", "fault"),
    [
        ({"kind": "coco", "annotations": "official"}, "dataset.annotations: "),
        ({"kind": "coco", "train_on_val": True}, "dataset.train_on_val: unknown key"),
        ({"kind": "vizwiz", "val": "test"}, "dataset.val: "),
        ({"kind": "vizwiz", "counts": {"train": 0}}, "dataset.counts.train: "),
        ({"kind": "vizwiz", "counts": {"trian": 5}}, "dataset.counts.trian: unknown key"),
        ({"kind": "flickr30k", "cache": {"quality": 101}}, "dataset.cache.quality: "),
        ({"kind": "flickr30k", "captions_per_image": 0}, "dataset.captions_per_image: "),
        ({"kind": "imagenet"}, "dataset.kind: "),
    ],
)
def test_faults_of_public_data_sets(dataset: dict[str, Any], fault: str) -> None:
    assert fault in faults_of(dataset=dataset)


def test_counts_that_are_not_given_are_the_known_ones() -> None:
    found = config.parse({**MINIMAL, "dataset": {"kind": "coco", "counts": {"train": 3, "val": None}}}, "x")
    assert found.dataset.counts.model_dump() == {"train": 3, "val": None, "test": 5_000}


def test_weights_that_would_not_be_fetched() -> None:
    weights = {"vision": {"weights": "downloads/weights/swin.pth"}, "text": {"weights": "downloads/weights/bert"}}
    pair = {"kind": "single-modal", **weights}
    message = faults_of(downloads="big/disk", models={"base": weights}, teachers={"t": None, "pair": pair})
    for key in ("models.base.vision", "models.base.text", "teachers.pair.vision", "teachers.pair.text"):
        assert f"{key}.weights: downloads/weights/" in message
    assert "downloads is big/disk; write big/disk/weights/swin.pth" in message
    config.parse({**MINIMAL, "models": {"base": weights}}, "my.yaml")


@pytest.mark.parametrize(
    ("dataset", "subset", "images"),
    [
        ("shapes", "first-400", "400"),
        ({"kind": "coco"}, "folds-6000", "5,000"),
        ({"kind": "coco"}, "first-5000", "5,000"),
    ],
)
def test_subsets_as_large_as_the_test_split(dataset: Any, subset: str, images: str) -> None:
    message = faults_of(dataset=dataset, evaluation={"subsets": ["first-10", subset]})
    assert f"1 fault in the configuration\n  evaluation.subsets: '{subset}', but test has {images} images" in message


NAME = "give a name of letters, digits"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training": {"epocs": 3}}, "training.epocs: unknown key; did you mean 'epochs'?"),
        ({"training": {"embed_dim": 3}}, "training.embed_dim: unknown key here; embed_dim belongs to models.NAME"),
        ({"teachers": {"t": {"epochs": 3}}}, "teachers.t.epochs: unknown key here; epochs belongs to training"),
        (
            {"models": {"base": {"vision": {"name": datetime.date(2024, 1, 2)}}}},
            "models.base.vision.name: found the date 2024-01-02; give text; put it in quotes if it is text",
        ),
        ({"epochs": 3}, "epochs: unknown key here; epochs belongs to training"),
        (
            {"dataset": {"kind": "custom", "imags": "i", "captions": "c"}},
            "dataset.imags: unknown key; did you mean 'images'?",
        ),
        ({"dataset": 3}, "dataset: found 3; give a mapping with kind: coco, custom, flickr30k, shapes or vizwiz"),
        (
            {"models": {"base": {"vision": {"image_size": "big"}}}},
            "models.base.vision.image_size: found 'big' (text); give a whole number from 16 to 2,048 (pixels), "
            "such as 384",
        ),
        (
            {"models": {"base": {"vision": {"weights": 3}}}},
            "models.base.vision.weights: found 3; give one of 'random', 'pretrained' or a path; put it in "
            "quotes if it is text",
        ),
        (
            {"training": {"mixed_precision": False}},
            "training.mixed_precision: found false; give one of 'no', 'fp16', 'bf16'; YAML reads yes, no, on and off "
            "without quotes as true and false",
        ),
        ({"training": {"clip_norm": "x"}}, "training.clip_norm: found 'x' (text); give a number above 0 or null"),
        ({"training": {"betas": [True, 0.9]}}, "training.betas[0]: found true; give a number from 0, below 1"),
        (
            {"training": {"augmentation": {"randaugment": 3}}},
            "training.augmentation.randaugment: found 3; give a mapping with the keys operations, magnitude or null",
        ),
        (
            {"training": {"batch_size": 7, "processes": 2, "itm_pool": 2}, "students": {"a.b": {"teacher": "t"}}},
            "training: batch_size 7 is the global batch; it must give each of the 2 processes the same number of "
            "captions, at least 2",
        ),
        ({"seeds": [1.5]}, "seeds[0]: found 1.5; give a whole number from 0 to 2,147,483,647"),
        ({"seeds": 3}, "seeds: found 3; give a list of whole numbers from 0 to 2,147,483,647, at least 1"),
        (
            {"evaluation": {"subsets": ["first-1"]}},
            "evaluation.subsets[0]: found 'first-1' (text); give first-N or folds-N, N a number of images of at least "
            "2, such as first-1000",
        ),
        (
            {"models": {"base": {"vision": {"name": "a\0b"}}}},
            "models.base.vision.name: found 'a\\x00b' with the control character '\\x00'; remove it",
        ),
    ],
)
def test_messages(changes: dict, line: str) -> None:
    assert faults_of(**changes) == f"my.yaml: 1 fault in the configuration\n  {line}"


@pytest.mark.parametrize("name", ["x" * 20, "a" + "-1" * 20])
def test_names_that_snakemake_refuses(name: str) -> None:
    assert f"students.{name}: found '{name}'; Snakemake refuses names" in faults_of(students={name: {"teacher": "t"}})


@pytest.mark.parametrize("name", ["a b", "a.", ".", "..", "-a", "x" * 101, "a/b", "a\n", "é", ""])
def test_names_that_results_cannot_carry(name: str) -> None:
    assert NAME in faults_of(students={name: {"teacher": "t"}})


def test_names_that_some_file_systems_do_not_tell_apart() -> None:
    message = faults_of(students={"rvlr": {"teacher": "t"}, "RVLR": {"teacher": "t"}})
    assert "students.RVLR: 'rvlr' differs in capitals or accents alone; rename one" in message


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf", "nan", "1e999"])
def test_no_number_is_without_end(value: Any) -> None:
    model = {"temperature": value, "relation_temperature": value, "vision": {"mean": [value, 0, 0]}}
    training = dict.fromkeys(("learning_rate", "lr_mult", "weight_decay", "eps", "warmup", "clip_norm"), value)
    message = faults_of(models={"base": model}, training=training, dataset={"kind": "shapes", "imbalance": value})
    assert message.startswith("my.yaml: 10 faults")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "(empty)"),
        ("-a", "take for an option"),
        (" a", "begins or ends with a space"),
        ("a/{b}", "with '{'"),
        ("a\nb", "with '\\n'"),
        ("a\0", "with '\\x00'"),
        ("~no-such-person/a", "no such user"),
        ("x" * 300, "a path of 300 characters"),
    ],
)
def test_paths_that_cannot_be_used(path: str, fault: str) -> None:
    dataset = {"kind": "custom", "images": path, "captions": path}
    message = faults_of(dataset=dataset, downloads=path, sources={"coco-val2014": {"existing": path}})
    assert message.startswith("my.yaml: 4 faults")
    assert message.count(fault) == 4


def test_what_is_not_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    (tmp_path / "cafe\u0301").mkdir()
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{n}.jpg,a dog\n" for n in range(100)))
    study = {
        **MINIMAL,
        "dataset": {"kind": "custom", "images": "caf\xe9", "captions": "captions.csv"},
        "models": {"base": {"vision": {"weights": "bert"}, "text": {"weights": "bert"}}},
        "evaluation": {"subsets": ["first-9", "folds-10"]},
    }
    with pytest.raises(UserError) as raised:
        disk.check(config.parse(study, "my.yaml"), "my.yaml")
    assert str(raised.value).split("\n  ") == [
        "my.yaml: 4 faults in the configuration",
        "models.base.vision.weights: bert is a folder, not a file; give a .safetensors or .pth file, 'pretrained' or "
        "'random'",
        "models.base.text.weights: no config.json in bert; give the folder of a BERT, or its name on the hub",
        "dataset.images: caf\xe9: nothing there, but the same name with its accents stored in another way (Unicode "
        "NFC, NFD): copy it; give the folder of your images",
        "evaluation.subsets: 'folds-10', but test has 10 images; name fewer than that",
    ]


def test_weights_that_are_fetched_or_known_by_name_need_not_be_there() -> None:
    weights = {"vision": {"weights": "downloads/weights/swin.pth"}, "text": {"weights": "org/some-bert"}}
    disk.check(config.parse({**MINIMAL, "models": {"base": weights}}, "my.yaml"), "my.yaml")


def test_another_kind_of_file_is_named() -> None:
    for data, section, expected in (
        (MINIMAL, config.Student, "a whole study found (it has the keys dataset, models, students, teachers)"),
        ({"teacher": "t"}, config.Study, "a student's section found (it has the key teacher), a whole study expected"),
        ({"teacher": "t"}, config.TrainedTeacher, "a student's section found"),
        ({"model": "m", "training": {}}, config.Student, "a trained teacher's section found"),
        ({"candidates": 3}, config.Relevance, "the evaluation's section found"),
        ({"stemmer": True}, config.Dataset, "the relevance section found"),
    ):
        with pytest.raises(UserError, match=re.escape(f"my.yaml: {expected}")):
            config.parse(data, "my.yaml", section)


def test_paths_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/me")
    found = config.parse({**MINIMAL, "downloads": "~/d", "sources": {"coco-val2014": {"existing": "~/v"}}}, "my.yaml")
    assert found.downloads == Path("/people/me/d")
    assert found.sources["coco-val2014"].existing == Path("/people/me/v")


def test_command_line_checks_and_shows(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    runner = CliRunner()
    assert "valid; 1 teacher(s), 1 student(s)" in runner.invoke(app, ["config", "check", str(path)]).output
    shown = runner.invoke(app, ["config", "show", str(path)]).output
    assert config.parse(yaml.safe_load(shown), "shown") == config.load(path)
    path.write_text("dataset: [")
    assert "not valid YAML" in str(runner.invoke(app, ["config", "check", str(path)]).exception)


def test_every_key_is_documented() -> None:
    text = (ROOT / "config/README.md").read_text()
    schema = config.Study.model_json_schema()
    keys = [(section, key, about) for section in (schema, *schema["$defs"].values())
            for key, about in section["properties"].items()]  # fmt: skip
    assert not [f"{section['title']}.{key}" for section, key, about in keys if not about.get("description")]
    assert not [f"{section['title']}.{key}" for section, key, _ in keys if f"`{key}` |" not in text]


def test_the_schema_and_the_tables_are_what_the_sections_say() -> None:
    advice = "run `python -m rvlr.config.document`"
    assert yaml.safe_load((ROOT / document.SCHEMA).read_text()) == document.schema(), advice
    readme = (ROOT / document.README).read_text()
    assert document.tables(readme) == readme, advice


SCHEMA = jsonschema.Draft202012Validator(yaml.safe_load((ROOT / document.SCHEMA).read_text()))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_accepts_every_shipped_file_which_names_it(name: str) -> None:
    text = (ROOT / f"config/{name}.yaml").read_text()
    SCHEMA.validate(yaml.safe_load(text))
    named = text.partition("\n")[0].removeprefix("# yaml-language-server: $schema=")
    assert (ROOT / "config" / named).resolve() == ROOT / document.SCHEMA


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"students": {"s": {"teacher": "t", "distance": "kl"}}}, True),
        ({"teachers": {"t": {"weights": {"itc": 2}}}}, True),
        ({"dataset": {"kind": "coco", "counts": {"train": 3}}}, True),
        ({"base": "published.yaml"}, True),
        ({"dataset": "custom"}, False),
        ({"dataset": {"kind": "coco", "train_on_val": True}}, False),
        ({"students": {"s": {"teacher": "t", "distance": "l2"}}}, False),
        ({"students": {"a b": {"teacher": "t"}}}, False),
        ({"training": {"epocs": 3}}, False),
        ({"training": {"epochs": 0}}, False),
        ({"training": {"betas": [0.9]}}, False),
        ({"sources": {"coco-traan2014": {}}}, False),
        ({"teachers": {"t": {"kind": "singel-modal"}}}, False),
    ],
)
def test_the_schema_refuses_what_is_misspelt(changes: dict[str, Any], accepted: bool) -> None:
    assert SCHEMA.is_valid({**MINIMAL, **changes}) == accepted


def write(folder: Path, **documents: str) -> Path:
    for name, text in documents.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "my.yaml"


def test_a_file_is_laid_over_its_base(tmp_path: Path) -> None:
    path = write(tmp_path, my="base: below.yaml\ntraining: {epochs: 3}\nseeds: [4]", below=yaml.safe_dump(
        {**MINIMAL, "training": {"epochs": 5, "max_words": 7}, "seeds": [0, 1]}))  # fmt: skip
    found = config.load(path)
    assert (found.training.epochs, found.training.max_words, found.seeds) == (3, 7, [4])
    over = write(tmp_path, over="training: {epochs: 9}")
    merged = {"base": "below.yaml", "training": {"epochs": 9}, "seeds": [4]}  # as Snakemake merges the two
    data, source = config.lay_over_bases(merged, [path, tmp_path / "over.yaml"])
    assert config.parse(data, source).training.max_words == 7
    assert source == f"{path} over {tmp_path / 'below.yaml'}, {tmp_path / 'over.yaml'}"
    with pytest.raises(UserError, match="outside of a file; write base into a file"):
        config.lay_over_bases({**merged, "base": "other.yaml"}, [over])


@pytest.mark.parametrize(
    ("base", "below", "fault"),
    [
        ("[a]", "", "my.yaml: base: found a list of 1, ['a']; give the path of a YAML file from this one"),
        ("null", "", "my.yaml: base: found null; give the path"),
        ("blow.yaml", "", "blow.yaml: no such file"),
        ("below.yaml", "seeds: [", "below.yaml: line 1: not valid YAML"),
        ("below.yaml", "3", "below.yaml: found 3; the file must contain a mapping"),
        ("below.yaml", "base: my.yaml", "below.yaml has a base itself; name that one"),
        ("below.yaml", "dataset: shapes\ntraning: {}", "1 fault in the configuration\n  traning: unknown key"),
    ],
)
def test_faults_of_a_base_name_the_file_and_the_key(tmp_path: Path, base: str, below: str, fault: str) -> None:
    study = yaml.safe_dump({key: value for key, value in MINIMAL.items() if key != "dataset"})
    path = write(tmp_path, my=f"base: {base}\n{study}", below=below)
    with pytest.raises(UserError) as raised:
        config.load(path)
    assert str(path) in str(raised.value)
    assert fault in str(raised.value)


def test_the_configuration_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, rvlr.config, rvlr.__main__, rvlr.data.records, rvlr.models.hub; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
