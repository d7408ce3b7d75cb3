"""Exceptions that the command line turns into a message and an exit status."""

import signal


class UserError(Exception):
    """Something a user can mend: bad input, bad configuration, files that do not match.

    Names the file, key or line, what was found, what is allowed and how to mend it. The command line prints the message
    without a traceback and exits with status 1.
    """


class Interrupted(Exception):  # noqa: N818 - no error: the run was asked to stop
    """A training was asked to stop by a signal and has saved its state; the exit status is 128 + the signal."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"interrupted by {name} at step {step}; the same command goes on from there")
        self.exit_status = 128 + number
