"""Resume state: the last two checkpoints, each with a checksum, and tied by a fingerprint to settings and inputs.

The folder lies outside the outputs that Snakemake manages, because Snakemake deletes the outputs of a failed job. It
contains only what is named here, and a mark (`rvlr.training.folders`). Beside the checkpoints lie the best weights that
they name, and the views of `rvlr.training.record`.
"""

import contextlib
import hashlib
import os
import pickle
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file, save

from rvlr import files, provenance
from rvlr.errors import UserError, describe_system
from rvlr.log import logger
from rvlr.training import record
from rvlr.training.folders import MARK, MARK_TEXT, TOKENS, is_part

FORMAT = 3
"""Changes when older checkpoints can no longer be read; it is part of the fingerprint."""
_DIGEST_BYTES = 64

Checkpoint = dict[str, Any]
"""What a training saves: the fields of `rvlr.training.engine.State`, and the states of model and optimiser."""


class _DamagedError(Exception):
    """What is wrong with a checkpoint, in words that follow its name."""


class ResumeFolder:
    """The folder of an unfinished training."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """fingerprint: of the settings and inputs, see `rvlr.training.stage`."""
        self.folder, self.fingerprint = folder, fingerprint
        self.checkpoint, self.previous = folder / "checkpoint.pt", folder / "previous.pt"
        self.tokens = folder / TOKENS  # written again by every start, see `rvlr.training.tokens`
        self._digests: dict[int, str] = {}  # of the best weights, by their step
        self._saved: Checkpoint | None = None  # step and best_step of the newest checkpoint

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if it is missing, and lock it for this process, see `rvlr.files.alone`: another training may
        use it, such as one that outlived its killed workflow. At the end the folder is removed if there is nothing in
        it to resume from."""
        mark = self.folder / MARK
        with ExitStack() as stack:
            with self.writing("the resume folder"):
                stack.enter_context(files.alone(self.folder.resolve()))
            ours = mark.exists() or not self.folder.exists()
            try:
                with self.writing("the resume folder"):
                    self.folder.mkdir(exist_ok=True)
                    mark.write_text(MARK_TEXT, encoding="utf-8")
                yield
            finally:
                if not (self.checkpoint.exists() or self.previous.exists() or record.written(self.folder)):
                    with contextlib.suppress(OSError):  # the disk is read-only by now, or the user put files there
                        self.clear()
                        mark.unlink(missing_ok=True)
                        if ours:
                            self.folder.rmdir()

    def load(self) -> Checkpoint | None:
        """The last sound checkpoint, which is `checkpoint.pt` afterwards; None if there is none yet, or if it belongs
        to other settings or inputs. Raises UserError if there are checkpoints, but none of them is sound."""
        damage = []
        for path in (self.checkpoint, self.previous):
            try:
                state = self._read(path)
            except _DamagedError as fault:
                damage.append(f"{path.name} {fault}")
                continue
            if state["fingerprint"] != self.fingerprint:
                logger.info("%s belongs to other settings or inputs; training starts over", path)
                return None
            if damage:
                logger.warning(
                    "%s: %s; training continues from %s, step %d",
                    *(self.folder, "; ".join(damage), path.name, state["step"]),
                )
                path.replace(self.checkpoint)  # never a damaged file as the older of the two
            self._remember(state)
            return state
        if not (os.path.lexists(self.checkpoint) or os.path.lexists(self.previous)):
            if record.written(self.folder):
                logger.info("%s contains no checkpoint; training starts over", self.folder)
            return None
        raise UserError(
            f"{self.folder}: there is no sound state to resume from: {'; '.join(damage)}. To start over, remove that "
            f"folder and run the same command again: rm -r {shlex.quote(str(self.folder))}"
        )

    def load_again(self) -> Checkpoint | None:
        """What `load` has found, for the other processes of a training."""
        if not self.checkpoint.exists():
            return None
        state: Checkpoint = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return state

    def _read(self, path: Path) -> Checkpoint:
        """A checkpoint whose bytes, and those of its best weights, are as they were written. Raises _DamagedError."""
        if not path.exists():
            raise _DamagedError("is missing")
        with path.open("rb") as stream:
            found, wanted = _digests(stream)
            if found != wanted:
                size = path.stat().st_size
                raise _DamagedError(f"is damaged: its {size:,} bytes do not match their checksum")
            stream.seek(0)
            try:
                state: Checkpoint = torch.load(stream, map_location="cpu", weights_only=True)
            except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise _DamagedError(f"cannot be read: {str(error).partition(chr(10))[0]}") from error
        if state["best_step"] is not None:
            best = self._best(state["best_step"])
            if not best.is_file():
                raise _DamagedError(f"needs {best.name}, which is missing")
            if provenance.sha256(best) != state["best_sha256"]:
                raise _DamagedError(f"needs {best.name}, which is damaged")
        return state

    def clear(self) -> None:
        """Remove every file of a training but the mark; the checkpoints first, since they name the rest."""
        self.checkpoint.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if is_part(path) and path.name != MARK:
                path.unlink()
        record.clear(self.folder)
        self._digests, self._saved = {}, None

    def save(self, state: Checkpoint) -> None:
        """Write a checkpoint; the last one becomes `previous.pt`. Then best weights that neither of the two names are
        removed."""
        before = self._saved["best_step"] if self._saved is not None else None
        named = {"fingerprint": self.fingerprint, "best_sha256": self._digests.get(state["best_step"]), **state}
        with (
            self.writing(f"the state of step {state['step']}"),
            files.atomic_file(self.checkpoint, ledger=False) as new,
        ):
            with new.open("w+b") as stream:
                torch.save(named, stream)
                stream.seek(0)
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                stream.write(digest.encode())
            files.sync(new)  # before the last checkpoint loses its name
            if self.checkpoint.exists():
                self.checkpoint.replace(self.previous)
        self._remember(named)
        for path in self.folder.glob("best-*.safetensors"):
            if path not in (self._best(before), self._best(state["best_step"])):
                path.unlink()

    def save_best(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Write the weights of `step`, which are kept until a checkpoint names better ones."""
        content = save({key: value.contiguous() for key, value in weights.items()})
        path = self._best(step)
        with self.writing(f"the best weights, of step {step},"), files.atomic_file(path, ledger=False) as new:
            new.write_bytes(content)
        self._digests[step] = hashlib.sha256(content).hexdigest()

    def load_best(self) -> dict[str, torch.Tensor]:
        """The best weights of the newest checkpoint."""
        if self._saved is None:
            raise ValueError("no checkpoint was saved or loaded")
        return load_file(self._best(self._saved["best_step"]))

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn the system's refusal to write `what` into a UserError that says which state is kept."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            refusal = error if isinstance(error, OSError) else error.__context__  # PyTorch hides it
            if not isinstance(refusal, OSError):
                raise
            refusal.filename = refusal.filename or self.folder
            raise UserError(
                f"{what} cannot be written: {describe_system(refusal) or refusal}; "
                + (f"it resumes at step {self._saved['step']}" if self._saved else "no state is saved yet")
            ) from error

    def _best(self, step: int | None) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _remember(self, state: Checkpoint) -> None:
        self._saved = {name: state[name] for name in ("step", "best_step")}
        self._digests[state["best_step"]] = state["best_sha256"]


def _digests(stream: BinaryIO) -> tuple[str, str]:
    """The SHA-256 of all bytes but the last 64, and the digest that these are."""
    left = max(0, stream.seek(0, os.SEEK_END) - _DIGEST_BYTES)
    stream.seek(0)
    digest = hashlib.sha256()
    while left:
        piece = stream.read(min(left, 1 << 20))
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest(), stream.read().decode("ascii", errors="replace")
