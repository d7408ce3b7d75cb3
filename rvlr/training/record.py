"""The record of a training: lines of metrics, and two views of them, metrics.jsonl and TensorBoard events.

The lines are part of the checkpoint. The views in the resume folder are written from them each time a training starts,
so damage to a view does no harm.
"""

import contextlib
import json
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from rvlr.log import logger
from rvlr.training.folders import EVENTS, METRICS, TENSORBOARD

Line = tuple[float, str]
"""When a line was written, in seconds since 1970, and the line: JSON without a line break."""


class Record:
    """The lines so far, and their views in a folder. TensorBoard's own writer is not used: it writes in a thread, so
    that a full disk ends in a traceback."""

    def __init__(self, folder: Path, lines: list[Line]) -> None:
        """Write the views of `lines` in place of older ones. Raises OSError."""
        self.lines = lines
        text = text_of(lines)
        metrics = folder / METRICS
        if lines and not (metrics.exists() and metrics.read_bytes().startswith(text.encode())):
            logger.warning("%s was missing or damaged; it is written again from the checkpoint", metrics)
        clear(folder)
        (folder / TENSORBOARD).mkdir(exist_ok=True)
        self._metrics = metrics.open("w", encoding="utf-8")
        self._events = (folder / TENSORBOARD / EVENTS).open("wb")
        self._metrics.write(text)
        self._write_event(Event(wall_time=lines[0][0] if lines else time.time(), file_version="brain.Event:2"))
        for line in lines:
            self._write_scalars(line)
        self.flush()

    def add(self, kind: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Add a line. Raises OSError."""
        line = (time.time(), json.dumps({"kind": kind, "step": step, "epoch": epoch, **values}))
        self.lines.append(line)
        self._metrics.write(line[1] + "\n")
        self._write_scalars(line)
        self.flush()

    def flush(self) -> None:
        """Flush the views to the system. Raises OSError."""
        self._metrics.flush()
        self._events.flush()

    def close(self) -> None:
        """Close the views; on a full disk, lines that could not be written were reported already."""
        for view in (self._metrics, self._events):
            with contextlib.suppress(OSError):
                view.close()

    def _write_scalars(self, line: Line) -> None:
        values = json.loads(line[1])
        kind, step = values.pop("kind"), values.pop("step")
        del values["epoch"]
        scalars = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()]
        self._write_event(Event(wall_time=line[0], step=step, summary=Summary(value=scalars)))

    def _write_event(self, event: Event) -> None:
        RecordWriter(self._events).write(event.SerializeToString())


def text_of(lines: list[Line]) -> str:
    """The content of metrics.jsonl."""
    return "".join(line + "\n" for _, line in lines)


def written(folder: Path) -> bool:
    """Whether a training has left lines in the folder."""
    metrics = folder / METRICS
    return metrics.is_file() and metrics.stat().st_size > 0


def clear(folder: Path) -> None:
    """Remove the views."""
    (folder / METRICS).unlink(missing_ok=True)
    (folder / TENSORBOARD / EVENTS).unlink(missing_ok=True)
    if (folder / TENSORBOARD).is_dir() and not any((folder / TENSORBOARD).iterdir()):
        (folder / TENSORBOARD).rmdir()
