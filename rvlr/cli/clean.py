"""`rvlr clean`: what a folder of results could do without."""

from pathlib import Path
from typing import Annotated

import typer

from rvlr.cli.options import App
from rvlr.errors import UserError, show

app = App()


@app.command("clean")
def clean_results(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", help="A folder of results, such as results/shapes.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="leftovers, resume, orphans, cache, features or relevance; repeatable. Default: all."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
) -> None:
    """List what can be deleted from RESULTS: its size, and what it would take to make it again. Deletes with --yes."""
    from rvlr.workflow import clean

    for kind in only or ():
        if kind not in clean.KINDS:
            raise UserError(
                f"--only: found {show(kind)}; give {', '.join(clean.KINDS)}, each with an --only of its own"
            )
    items = clean.find(folder, only or clean.KINDS)
    typer.echo(clean.table(folder, items))
    if yes and items:
        deleted = clean.delete(folder, items)
        typer.echo(f"deleted {len(deleted)} of {len(items)}: {clean.size_of(deleted)}")
    elif items:
        typer.echo("nothing was deleted; --yes deletes all that is listed, --only KIND lists less")
