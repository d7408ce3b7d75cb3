"""Resume state: the last two checkpoints, each proven sound by a checksum and tied by a fingerprint to what it belongs
to.

The folder lies outside the outputs that Snakemake knows, because Snakemake deletes the outputs of a failed job. It
holds nothing but what is named here, and a mark. Beside the checkpoints lie the best weights that they name, and the
views of `rvlr.training.record`.
"""

import contextlib
import fcntl
import hashlib
import os
import pickle
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file, save

from rvlr import files, provenance
from rvlr.errors import UserError, describe_system
from rvlr.log import logger
from rvlr.training import record
from rvlr.training.folders import MARK, MARK_TEXT, is_part

FORMAT = 2
"""Changes whenever older checkpoints can no longer be read: it is part of the fingerprint."""
_DIGEST_BYTES = 64


class _DamagedError(Exception):
    """What is wrong with a checkpoint, in words that follow its name."""


class ResumeFolder:
    """The folder that an unfinished training lives in."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.checkpoint, self.previous = folder / "checkpoint.pt", folder / "previous.pt"
        self._new = folder / ".new.tmp"
        self._digests: dict[int, str] = {}  # of the best weights, by their step
        self._saved: dict[str, Any] | None = None  # what the newest checkpoint says about itself

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, which is made if need be, for this process; waits, saying so, while another training (one
        that outlived its killed workflow, say) still holds it. The lock goes with the process, however it ends. At the
        end the folder is removed if there is nothing in it to resume from."""
        with self.writing("the resume folder"):
            real = self.folder.resolve()
            real.parent.mkdir(parents=True, exist_ok=True)
            lock = real.with_name(f".{real.name}.lock").open("a+b", buffering=0)
        with lock:
            self._acquire(lock)
            mark = self.folder / MARK
            ours = mark.exists() or not self.folder.exists()
            try:
                with self.writing("the resume folder"):
                    self.folder.mkdir(exist_ok=True)
                    mark.write_text(MARK_TEXT, encoding="utf-8")
                yield
            finally:
                if not (self.checkpoint.exists() or self.previous.exists() or record.written(self.folder)):
                    with contextlib.suppress(OSError):  # it can no longer be written, or somebody put files into it
                        self.clear()
                        mark.unlink(missing_ok=True)
                        if ours:
                            self.folder.rmdir()

    def _acquire(self, lock: FileIO) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            logger.warning("process %s is at work in %s; waiting for it to end", lock.read().decode(), self.folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        with self.writing("the resume folder"):
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())

    def load(self) -> dict[str, Any] | None:
        """The last sound checkpoint, which is `checkpoint.pt` from then on; None if there is none yet, or if it belongs
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
                logger.info("%s holds no checkpoint; training starts over", self.folder)
            return None
        raise UserError(
            f"{self.folder}: there is no sound state to resume from: {'; '.join(damage)}. To start over, remove that "
            f"folder and run the same command again: rm -r {shlex.quote(str(self.folder))}"
        )

    def load_again(self) -> dict[str, Any] | None:
        """What `load` has found, for the other processes of a training."""
        if not self.checkpoint.exists():
            return None
        return torch.load(self.checkpoint, map_location="cpu", weights_only=True)

    def _read(self, path: Path) -> dict[str, Any]:
        """A checkpoint that is as it was written, and whose best weights are. Raises _DamagedError."""
        if not path.exists():
            raise _DamagedError("is missing")
        with path.open("rb") as stream:
            found, wanted = _digests(stream)
            if found != wanted:
                size = path.stat().st_size
                raise _DamagedError(f"is damaged: its {size:,} bytes do not match their checksum")
            stream.seek(0)
            try:
                state = torch.load(stream, map_location="cpu", weights_only=True)
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

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint beside the last one, which becomes `previous.pt`; best weights that neither of the two
        names are dropped only then."""
        before = self._saved["best_step"] if self._saved is not None else None
        named = {"fingerprint": self.fingerprint, "best_sha256": self._digests.get(state["best_step"]), **state}
        with self._written(self.checkpoint, f"the state of step {state['step']}") as stream:
            torch.save(named, stream)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.write(digest.encode())
        self._remember(named)
        for path in self.folder.glob("best-*.safetensors"):
            if path not in (self._best(before), self._best(state["best_step"])):
                path.unlink()

    def save_best(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Keep the weights of `step` until a checkpoint names better ones."""
        content = save({key: value.contiguous() for key, value in weights.items()})
        with self._written(self._best(step), f"the best weights, of step {step},") as stream:
            stream.write(content)
        self._digests[step] = hashlib.sha256(content).hexdigest()

    def load_best(self, step: int) -> dict[str, torch.Tensor]:
        """The weights kept by `save_best`."""
        return load_file(self._best(step))

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn the system's refusal to write `what` into a UserError that says what is kept."""
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

    @contextmanager
    def _written(self, path: Path, what: str) -> Iterator[BinaryIO]:
        """Yield a stream for the content of `path`, which takes its place when it is complete and on the disk."""
        with self.writing(what):
            try:
                with self._new.open("w+b") as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                if path == self.checkpoint and path.exists():
                    path.replace(self.previous)
                self._new.replace(path)
                files.sync(self.folder)
            finally:
                with contextlib.suppress(OSError):  # of a file system that became read-only
                    self._new.unlink(missing_ok=True)

    def _best(self, step: int | None) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _remember(self, state: dict[str, Any]) -> None:
        self._saved = {name: state[name] for name in ("step", "best_step")}
        self._digests[state["best_step"]] = state["best_sha256"]


def _digests(stream: BinaryIO) -> tuple[str, str]:
    """The SHA-256 of all bytes but the last 64, and what these say."""
    left = max(0, stream.seek(0, os.SEEK_END) - _DIGEST_BYTES)
    stream.seek(0)
    digest = hashlib.sha256()
    while left:
        piece = stream.read(min(left, 1 << 20))
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest(), stream.read().decode("ascii", errors="replace")
