"""Exceptions that the command line turns into a message and an exit status, and the advice on errors of the system."""

import errno
import reprlib
import signal
import sys
from typing import Any

_ADVICE = {
    errno.ENOSPC: "make room there and run the same command again",
    errno.EDQUOT: "your quota there is used up: make room and run the same command again",
    errno.EFBIG: "the file system does not allow files of that size; use another one",
    errno.EACCES: "check the permissions of the path and of the folders above it",
    errno.EPERM: "check the permissions of the path and of the folders above it",
    errno.EROFS: "the file system is read-only; give a path that can be written",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EISDIR: "give the path of a file",
    errno.ENOTDIR: "a part of the path is a file; give a path whose folders are folders",
    errno.EEXIST: "a file is where a folder is needed; move it away or give another path",
    errno.ENOENT: "check the path",
    errno.ELOOP: "links lead in a circle; remove them or give another path",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n 4096`, or lower `workers`",
    errno.ENFILE: "too many files are open on this machine; close other programs",
    errno.EIO: "the disk or network drive fails; copy your data to another one",
    errno.ESTALE: "the network drive was disconnected; run the same command again",
    errno.ENOMEM: "the memory is used up; lower `batch_size` or `workers`, or close other programs",
}

_REPR = reprlib.Repr()  # values come from the user's files: they may be of any length and depth
_REPR.maxstring = _REPR.maxother = 200


def show(value: Any) -> str:
    """A value as messages print it: on one line, without control characters, cut when it is very long."""
    return _REPR.repr(value)


class UserError(Exception):
    """A fault that a user can fix: bad input, bad configuration, files that do not match.

    The message names the file, key or line, what was found, what is allowed and how to fix the fault. The command line
    prints the message without a traceback and exits with status 1.
    """


class LogFileError(UserError):
    """The log file is one of the files to be made: not even this message may be written to it."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """A training was asked to stop by a signal and has saved its state; the exit status is 128 + the signal."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"interrupted by {name} at step {step}; the same command resumes from there")
        self.exit_status = 128 + number


def describe_system(error: BaseException) -> str | None:
    """What the operating system or the memory refused, in words that help a user: the file, what was being done, how to
    fix it. None if `error` is of another kind, or an error of the system that no user can fix."""
    doing = f"while running `rvlr {' '.join(sys.argv[1:2])}`"
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{where or 'a file'}: {error.strerror} ({doing}); {_ADVICE[error.errno]}"
    # PyTorch's own class is not imported: a command that needs no PyTorch must not load it
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        said = str(error).strip().partition("\n")[0]
        found = f": {said}" if said else ""
        return f"out of memory {doing}{found}; lower `batch_size` or `workers`, or use a larger machine"
    return None
