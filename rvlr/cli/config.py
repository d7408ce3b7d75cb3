"""`rvlr config ...` and `rvlr freeze`."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from rvlr import config, documents, files, log
from rvlr.cli.options import App, LogFile, Output
from rvlr.ownership import check_paths
from rvlr.workflow import disk

group = App(no_args_is_help=True, help="Check or show a configuration file.")
app = App()


@group.command()
def check(file: Path) -> None:
    """Validate FILE as a whole. Every fault is listed with its key."""
    found = config.load(file)
    disk.check(found, str(file))
    typer.echo(f"{file}: valid; {len(found.teachers)} teacher(s), {len(found.students)} student(s)")


@group.command()
def show(file: Path) -> None:
    """Print FILE with all defaults filled in."""
    typer.echo(config.to_yaml(config.load(file)), nl=False)


@app.command()
def freeze(
    section: Annotated[str, typer.Option(help="A section of the configuration as JSON.")],
    output: Output,
    log_file: LogFile = None,
) -> None:
    """Write a section of the configuration as a file. Stages read such files."""
    log.setup(log_file)
    check_paths({"--log-file": log_file}, {"--output": output})
    settings = documents.parse_json(section, "--section")
    files.write_text(output, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
