"""`rvlr data ...`: fetching, checking and preparing public data sets, each a stage of the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from rvlr import config, io, log
from rvlr.config.sources import KNOWN
from rvlr.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Fetch, check and prepare data.")

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="A name that `rvlr data sources` lists.")]
SourceFile = Annotated[Path, typer.Option("--config", help="Frozen source, YAML: addresses, size, checksum, ...")]
Splits = Annotated[Path, typer.Option(help="Folder of the splits.")]
LogFile = Annotated[Path | None, typer.Option(help="Also write messages to this file.")]


@app.command()
def sources() -> None:
    """List every file that can be fetched: where it is kept, its size, terms and addresses."""
    for name, known in KNOWN.items():
        size = f", {known.source.size / 2**30:.2f} GiB" if known.source.size else ""
        typer.echo(f"{name}: {known.about}{size}; {known.terms}\n  kept as DOWNLOADS/{known.file}")
        for address in known.source.addresses or [f"to be asked for at {known.request}"]:
            typer.echo(f"  {address}")


@app.command()
def fetch(
    name: SourceName,
    config_file: SourceFile,
    output: Annotated[Path, typer.Option(help="The file to make.")],
    log_file: LogFile = None,
) -> None:
    """Fetch one file, or link to the one at hand, and check it."""
    log.setup(log_file)
    from rvlr.data import download

    _say_terms(name)
    download.fetch(name, config.load(config_file, config.Source), output)


@app.command()
def images(
    name: SourceName,
    config_file: SourceFile,
    archive: Annotated[Path, typer.Option(help="Where the archive is kept.")],
    output: Annotated[Path, typer.Option(help="What to write: a record, .json, beside the folder of images.")],
    log_file: LogFile = None,
) -> None:
    """Fetch and unpack an archive of images, or link to the folder at hand; the folder is OUTPUT without .json."""
    log.setup(log_file)
    from rvlr.data import download, unpack

    _say_terms(name)
    source = config.load(config_file, config.Source)
    folder = output.with_suffix("")
    if source.existing is not None and source.existing.is_dir():
        unpack.link_images(source.existing, folder)
    elif not folder.is_dir():
        download.fetch(name, source, archive, unpacked=True)
        unpack.unpack_images(archive, folder, source.images or 0)
    io.write_json(output, {"source": name, **source.model_dump(mode="json"), "provenance": io.provenance()})


@app.command()
def verify(
    splits: Splits,
    output: Annotated[Path, typer.Option(help="What to write: a record of the check, .json.")],
    log_file: LogFile = None,
) -> None:
    """Open every image of a data set once; list those that training could not read."""
    log.setup(log_file)
    from rvlr.data import verify as stage
    from rvlr.data.records import SPLITS, read_split

    stage.verify([read_split(splits / f"{name}.jsonl", originals=True) for name in SPLITS], output)


@app.command()
def cache(
    config_file: Annotated[Path, typer.Option("--config", help="Frozen data set section, YAML.")],
    splits: Splits,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    log_file: LogFile = None,
) -> None:
    """Make copies of the images, scaled down once, for training to read."""
    log.setup(log_file)
    section = config.load(config_file, config.Dataset)
    if section.kind == "shapes" or section.cache is None:
        raise UserError(f"{config_file}: cache is not set; give dataset.cache its short_side, format and quality")
    from rvlr.data import cache as stage
    from rvlr.data.records import SPLITS, read_split

    stage.build([read_split(splits / f"{name}.jsonl", originals=True) for name in SPLITS], section.cache, output)


def _say_terms(name: str) -> None:
    if name not in KNOWN:
        raise UserError(f"{name!r} is no source; known: {', '.join(KNOWN)}")
    known = KNOWN[name]
    log.logger.info("%s: %s. Terms: %s", name, known.about, known.terms)
