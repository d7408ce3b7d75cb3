"""`rvlr data ...`: fetching, checking and preparing public data sets, each a stage of the workflow."""

from pathlib import Path
from typing import Annotated

import typer

from rvlr import config, files, log
from rvlr.cli.options import App, Downloads, LogFile, Splits
from rvlr.config.sources import SOURCES, resolve
from rvlr.errors import UserError
from rvlr.faults import did_you_mean
from rvlr.ownership import check_apart, check_paths

app = App(no_args_is_help=True, help="Fetch, check and prepare data.")


@app.command()
def sources() -> None:
    """List every file that can be fetched. Shows where each is kept, its size, terms and addresses."""
    for name, source in SOURCES.items():
        size = f", {source.origin.size / 2**30:.2f} GiB" if source.origin.size else ""
        typer.echo(f"{name}: {source.about}{size}; {source.terms}\n  kept as DOWNLOADS/{source.file}")
        for address in source.origin.addresses or [f"to be asked for at {source.request}"]:
            typer.echo(f"  {address}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="SOURCE", help="A name that `rvlr data sources` lists.")],
    sources_file: Annotated[
        Path | None, typer.Option("--sources", help="YAML as the configuration's `sources`: other addresses, by name.")
    ] = None,
    downloads: Downloads = config.DOWNLOADS,
    log_file: LogFile = None,
) -> None:
    """Fetch one source and check it. A local file is linked; an archive of images is unpacked."""
    log.setup(log_file)
    if name not in SOURCES:
        raise UserError(f"{name!r} is no source; known: {', '.join(SOURCES)}{did_you_mean(name, SOURCES)}")
    source = SOURCES[name]
    given = {} if sources_file is None else config.load(sources_file, config.Sources)
    made = [downloads / path for path in (source.file, source.folder) if path is not None]
    check_apart({"--sources": sources_file, "--log-file": log_file}, {"--downloads": made})
    log.progress("%s: %s. Terms: %s", name, source.about, source.terms)
    from rvlr.fetch import download, images

    origin = resolve(name, given.get(name))
    if source.folder is None:
        download.fetch(name, origin, downloads / source.file)
    else:
        images.fetch(name, origin, downloads / source.file, downloads / source.folder)


@app.command()
def verify(
    splits: Splits,
    output: Annotated[Path, typer.Option(help="What to write: a record of the check, .json.")],
    log_file: LogFile = None,
) -> None:
    """Open every image of a data set once. Lists the images that training could not read."""
    log.setup(log_file)
    from rvlr.data.records import read_originals
    from rvlr.datasets import verify as stage

    made = [output, output.with_name(stage.LISTING)]
    check_paths({"--splits": splits, "--log-file": log_file}, {"--output": made})
    stage.verify(read_originals(splits), output)


@app.command()
def cache(
    config_file: Annotated[Path, typer.Option("--config", help="Frozen data set section, YAML.")],
    splits: Splits,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    log_file: LogFile = None,
) -> None:
    """Make scaled-down copies of the images. Training and evaluation read these."""
    log.setup(log_file)
    section = config.load(config_file, config.Dataset)
    if section.copies is None:
        raise UserError(f"{config_file}: cache is not set; give dataset.cache its short_side, format and quality")
    check_paths({"--config": config_file, "--splits": splits, "--log-file": log_file}, {"--output": output})
    from rvlr.data.records import read_originals
    from rvlr.datasets import cache as stage

    found = read_originals(splits)
    check_paths({"the images of the splits,": found[0].image_root}, {"--output": output})
    prepared = files.read_json(splits / "dataset.json").get("cache")
    if prepared != section.copies.model_dump():
        raise UserError(
            f"{splits / 'dataset.json'}: prepared with cache {prepared}, but {config_file} says "
            f"{section.copies.model_dump()}; run the prepare stage with that file first"
        )
    stage.build(found, section.copies, output)
