"""`rvlr data ...`: fetching, checking and preparing public data sets, each a stage of the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from rvlr import config, io, log
from rvlr.cli import App
from rvlr.config.sources import KNOWN, resolve
from rvlr.errors import UserError
from rvlr.faults import did_you_mean
from rvlr.ownership import check_apart, check_paths

app = App(no_args_is_help=True, help="Fetch, check and prepare data.")

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
    name: Annotated[str, typer.Argument(metavar="SOURCE", help="A name that `rvlr data sources` lists.")],
    sources_file: Annotated[
        Path | None, typer.Option("--sources", help="YAML as the configuration's `sources`: other addresses, by name.")
    ] = None,
    downloads: Annotated[Path, typer.Option(help="Folder of what is fetched.")] = config.DOWNLOADS,
    log_file: LogFile = None,
) -> None:
    """Fetch one source, or link to what is at hand, and check it; an archive of images is unpacked."""
    log.setup(log_file)
    if name not in KNOWN:
        raise UserError(f"{name!r} is no source; known: {', '.join(KNOWN)}{did_you_mean(name, KNOWN)}")
    known = KNOWN[name]
    given = {} if sources_file is None else config.load(sources_file, config.Sources)
    source = resolve(name, given.get(name))
    made = [downloads / path for path in (known.file, known.folder) if path is not None]
    check_apart({"--sources": sources_file, "--log-file": log_file}, {"--downloads": made})
    log.logger.info("%s: %s. Terms: %s", name, known.about, known.terms)
    from rvlr.data import download

    if known.folder is None:
        download.fetch(name, source, downloads / known.file)
    else:
        _fetch_images(name, source, downloads / known.file, downloads / known.folder)


def _fetch_images(name: str, source: config.Source, archive: Path, folder: Path) -> None:
    """Make the folder of images and a record of it, .json, beside it. Both stay as they are if they are there."""
    from rvlr.data import download, unpack

    record = folder.with_name(f"{folder.name}.json")
    with io.alone(record):
        if record.exists() and folder.is_dir() and not _linked_elsewhere(source, record, folder):
            return
        if source.existing is not None and source.existing.is_dir():
            try:
                unpack.link_images(source.existing, folder)
            except UserError as error:
                raise UserError(f"sources.{name}: existing: {error}") from None
        elif folder.is_symlink() and not folder.exists():
            raise UserError(
                f"sources.{name}: {folder} links to {folder.readlink()}, which is not there; connect its disk, or "
                "delete the link to have the images fetched"
            )
        elif folder.is_dir():
            unpack.check_images(folder, source.images)
        else:
            download.fetch(name, source, archive, unpacked=True)
            try:
                unpack.unpack_images(archive, folder, source.images)
            except UserError as error:
                given = source.existing
                raise error if given is None else UserError(f"sources.{name}: existing: {given}: {error}") from None
        io.write_json(record, {"source": name, **source.model_dump(mode="json"), "provenance": io.provenance()})


def _linked_elsewhere(source: config.Source, record: Path, folder: Path) -> bool:
    """Whether the folder is a link that another `existing` led to."""
    if source.existing is None or not folder.is_symlink():
        return False
    return io.read_json(record).get("existing") != source.model_dump(mode="json")["existing"]


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

    made = [output, output.with_name(stage.LISTING)]
    check_paths({"--splits": splits, "--log-file": log_file}, {"--output": made})
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
    check_paths({"--config": config_file, "--splits": splits, "--log-file": log_file}, {"--output": output})
    from rvlr.data import cache as stage
    from rvlr.data.records import SPLITS, read_split

    found = [read_split(splits / f"{name}.jsonl", originals=True) for name in SPLITS]
    check_paths({"the images of the splits,": found[0].image_root}, {"--output": output})
    prepared = io.read_json(splits / "dataset.json").get("cache")
    if prepared != section.cache.model_dump():
        raise UserError(
            f"{splits / 'dataset.json'}: prepared with cache {prepared}, but {config_file} says "
            f"{section.cache.model_dump()}; run the prepare stage with that file first"
        )
    stage.build(found, section.cache, output)
