"""`rvlr import-...` and `rvlr export-...`: the authors' checkpoints, teacher features and relevance matrices."""

from pathlib import Path
from typing import Annotated

import typer

from rvlr import config, log
from rvlr.cli.options import App, Captions, CaptionsPerImage, LogFile, Stemmer
from rvlr.ownership import Paths, check_paths

app = App()

Split = Annotated[Path, typer.Option(help="The training split, .jsonl.")]
Scorer = Annotated[str, typer.Option(help="What the matrix was made with: rouge-score or coco-caption.")]


@app.command()
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' checkpoint_best.pth, of a teacher or a student.")],
    vision_config: Annotated[Path, typer.Option(help="The authors' JSON of the Swin.")],
    text_config: Annotated[Path, typer.Option(help="The authors' JSON of the BERT.")],
    output: Annotated[Path, typer.Option(help="Model folder to make.")],
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, stored with the model.")] = None,
    log_file: LogFile = None,
) -> None:
    """Turn a published checkpoint into a model folder. The folder's import.json lists what became of each key."""
    log.setup(log_file)
    given = {"CHECKPOINT": checkpoint, "--vision-config": vision_config, "--text-config": text_config}
    check_paths({**given, "--log-file": log_file}, {"--output": output})
    from rvlr.convert import checkpoint as published
    from rvlr.models import hub, tokens

    loaded = None
    if tokenizer is None:
        log.logger.info("no --tokenizer given: the folder will contain none, and evaluation needs one")
    else:
        loaded = tokens.load(hub.find(tokenizer, "--tokenizer", hub.VOCABULARIES), "--tokenizer")
    found = published.read(checkpoint, vision_config, text_config)
    if loaded is not None:
        tokens.check_ids(loaded, found.model.text_encoder.config.vocab_size, f"--tokenizer: {tokenizer}")
        tokens.check_frame(loaded, f"--tokenizer: {tokenizer}")
    published.save(found, loaded, output)


@app.command()
def import_features(
    image: Annotated[Path, typer.Option(help="The authors' train_image_embed_regu.npy.")],
    text: Annotated[Path, typer.Option(help="The authors' train_text_embed_regu.npy.")],
    annotations: Annotated[
        list[Path], typer.Option(help="The JSON file the rows belong to; several are given in the order of the rows.")
    ],
    split: Split,
    output: Annotated[Path, typer.Option(help="Folder of features to make.")],
    log_file: LogFile = None,
) -> None:
    """Turn the authors' teacher features into ours. Theirs have one row a caption."""
    log.setup(log_file)
    given: dict[str, Paths] = {"--image": image, "--text": text, "--annotations": annotations, "--split": split}
    made = [output / name for name in ("image.npy", "text.npy", "index.json")]
    check_paths({**given, "--log-file": log_file}, {"--output": made})
    from rvlr.convert import features as converted
    from rvlr.data.records import read_split

    converted.import_features(image, text, annotations, read_split(split), output)


@app.command()
def export_features(
    features: Annotated[Path, typer.Option(help="Folder of a teacher's features.")],
    split: Split,
    output: Annotated[Path, typer.Option(help="Folder for the two files.")],
    annotations: Annotated[
        list[Path] | None,
        typer.Option(
            help="The JSON file whose order the rows get; several are given in order. Else: the split's order."
        ),
    ] = None,
    log_file: LogFile = None,
) -> None:
    """Write teacher features as the authors' code reads them. These have one row a caption."""
    log.setup(log_file)
    from rvlr.convert import features as converted
    from rvlr.data.records import read_split

    check_paths(
        {"--features": features, "--split": split, "--annotations": annotations, "--log-file": log_file},
        {"--output": [output / name for name in (converted.IMAGE_FILE, converted.TEXT_FILE)]},
    )
    converted.export_features(features, read_split(split), annotations or [], output)


@app.command()
def import_relevance(
    file: Annotated[Path, typer.Argument(help="The authors' flattened matrix, <data>-rougeL.npy.")],
    captions: Captions,
    output: Annotated[Path, typer.Option(help="The matrix to write, .npy.")],
    scorer: Scorer = "rouge-score",
    stemmer: Stemmer = False,
    captions_per_image: CaptionsPerImage = None,
    log_file: LogFile = None,
) -> None:
    """Turn the authors' relevance matrix into ours. It is compared with the scorer first."""
    log.setup(log_file)
    from rvlr import relevance
    from rvlr.convert import relevance as converted
    from rvlr.datasets.annotations import read_captions

    section = config.parse({"scorer": scorer, "stemmer": stemmer}, "options", config.Relevance)
    given = {"FILE": file, "--captions": captions, "--log-file": log_file}
    check_paths(given, {"--output": relevance.outputs(output)})
    converted.import_relevance(file, read_captions(captions, captions_per_image), section, output)


@app.command()
def export_relevance(
    file: Annotated[Path, typer.Argument(help="A relevance matrix, .npy, with its .json beside it.")],
    captions: Captions,
    output: Annotated[Path, typer.Option(help="The flattened matrix to write, .npy.")],
    captions_per_image: CaptionsPerImage = None,
    log_file: LogFile = None,
) -> None:
    """Write a relevance matrix as the authors' code reads it. The matrix, captions x images, is flattened."""
    log.setup(log_file)
    from rvlr.convert import relevance as converted
    from rvlr.datasets.annotations import read_captions

    check_paths({"FILE": file, "--captions": captions, "--log-file": log_file}, {"--output": output})
    converted.export_relevance(file, read_captions(captions, captions_per_image), output)
