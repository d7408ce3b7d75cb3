"""The options of the commands, and how every command reads its options: each once, and none empty.

typer alone would silently take the last of several values, and an empty text for the current folder.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from rvlr.config import runs
from rvlr.errors import UserError, show

F = TypeVar("F", bound=Callable[..., None])


def whole(least: int, most: int) -> Callable[[str], int]:
    """The `parser` of an option that is a whole number in a range; typer's own message is less clear."""

    def parse(text: str) -> int:
        digits = text.strip().removeprefix("-")
        value = int(text) if digits.isdecimal() and len(digits) < 20 else None
        if value is None or not least <= value <= most:
            raise typer.BadParameter(f"found {text[:40]!r}; give a whole number from {least:,} to {most:,}")
        return value

    return parse


def run_name(text: str) -> str:
    """The `parser` of an option that names a run as the results do."""
    if runs.PATTERN.fullmatch(text) is None:
        raise typer.BadParameter(f"found {text[:100]!r}; give {runs.ALLOWED}")
    return text


def named_folders(option: str, values: list[str]) -> dict[str, Path]:
    """name -> folder, of an option that takes NAME=FOLDER several times. Raises UserError naming the first that is
    something else, or whose name was given before."""
    found: dict[str, Path] = {}
    for text in values:
        name, _, folder = text.partition("=")
        if re.fullmatch(runs.NAME, name) is None or not folder:
            raise UserError(f"{option}: found {show(text)}; give NAME=FOLDER, with a teacher's name as in the results")
        if name in found:
            raise UserError(f"{option}: {name} is given twice; give each teacher once")
        found[name] = Path(folder)
    return found


class _Command(TyperCommand):
    """A command that refuses options given twice and empty values; lists may be given several times."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter, count in Counter(order).items():
            single = parameter.param_type_name == "option" and not parameter.multiple
            if count > 1 and single and parameter.name != "help":
                ctx.fail(f"{parameter.opts[0]} is given {count} times; give it once")
            given = values.get(parameter.name)
            texts = given if isinstance(given, list | tuple) else [given]
            if any(isinstance(one, str) and not one.strip() for one in texts):
                named = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name.upper()
                ctx.fail(f"{named} is empty; give a value, or leave it out if it is not needed")
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """A group of such commands. Messages and help are plain text, as log files need it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Register a function as a command, as typer's does."""
        return super().command(name, cls=_Command, **options)


ConfigFile = Annotated[Path, typer.Option("--config", help="Frozen section of the configuration, YAML.")]
LogFile = Annotated[Path | None, typer.Option(help="Also write messages to this file.")]
Seed = Annotated[int, typer.Option(parser=whole(0, 2**31 - 1), metavar="INTEGER", help="Seed of the run.")]
Output = Annotated[Path, typer.Option(help="What to write.")]
Downloads = Annotated[Path, typer.Option(help="Folder of what is fetched.")]
Splits = Annotated[Path, typer.Option(help="Folder of the splits.")]
StartModel = Annotated[Path, typer.Option(help="Model folder to start from.")]
ValRelevance = Annotated[
    Path | None, typer.Option(help="Relevance matrix of the val split, .npy, where training.selected_by is balanced.")
]
Scenes = Annotated[
    Path | None, typer.Option(help="Relevance matrix by scenes, .npy, where the section has scene_relevance: true.")
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FOLDER",
        help="A teacher's features of that split, to see what is left of its structure in the model; repeatable.",
    ),
]
Resume = Annotated[Path, typer.Option(help="Folder for the state of an unfinished training.")]
RequireGpu = Annotated[
    bool, typer.Option("--require-gpu", help="Fail where there is no GPU, instead of using the CPU.")
]
Run = Annotated[
    str, typer.Option(parser=run_name, metavar="RUN", help="Name of the run in the results, such as student-rvlr.")
]
Evaluations = Annotated[list[Path], typer.Argument(help="Result files, eval/test.json of each run and seed.")]
Captions = Annotated[Path, typer.Option(help="A split (.jsonl), or the authors' JSON.")]
CaptionsPerImage = Annotated[
    int | None,
    typer.Option(
        parser=whole(1, 10**6),
        metavar="INTEGER",
        help="Use the first so many captions of each image, as the paper does with 5; else all.",
    ),
]
Stemmer = Annotated[bool, typer.Option("--stemmer", help="Compare word stems; rouge-score only.")]
