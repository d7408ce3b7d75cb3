"""Balanced vision-language retrieval: each stage of the workflow is a command.

The commands are in the order of the workflow. `rvlr COMMAND --help` lists the options of one.
"""

# ruff: noqa: E402 - what numerical libraries read when they are loaded comes first
from rvlr import environment

environment.prepare()

import atexit
import gc
import logging
import os
import sys
from typing import NoReturn

import typer

from rvlr import log
from rvlr.cli import clean, config, convert, data, report, stages
from rvlr.cli.options import App
from rvlr.errors import Interrupted, LogFileError, UserError, describe_system

app = App(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(config.group, name="config")
app.add_typer(data.app, name="data")
for part in (config, stages, report, clean, convert):
    app.add_typer(part.app)


def main() -> None:
    """Run the command line; faults that a user can fix end with one message and exit status 1."""
    environment.prepare()
    atexit.register(gc.freeze)  # or Python looks for garbage in all of PyTorch once more, which takes a second
    try:
        app()
    except UserError as error:
        if isinstance(error, LogFileError):
            log.forget_file()
        _fail(str(error))
    except Interrupted as stop:
        log.logger.warning("%s", stop)
        sys.exit(stop.exit_status)
    except Exception as error:
        message = describe_system(error)
        if message is not None:
            _fail(message)
        # a fault of ours: the traceback belongs in the log file too
        if not log.logger.handlers:
            raise
        log.logger.exception("unexpected error")
        _leave()


def _fail(message: str) -> NoReturn:
    """Show the one message of a command that failed and exit with status 1."""
    if log.logger.handlers:
        log.logger.error("%s", message)
    else:
        typer.echo(f"error: {message}", err=True)
    _leave()


def _leave() -> NoReturn:
    """Exit with status 1, as one of several processes at once: the threads of a collective that the others will never
    join abort an orderly exit now and then, and the status with it."""
    if environment.place() is None:
        sys.exit(1)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
