"""Starting a stage as several processes, and ending them together.

The launcher stays as their parent. It passes signals on, ends the others where one fails, and its exit status is that
of the first that failed. The processes find each other through PyTorch's own rendezvous, see `rvlr.distributed`;
nothing but a folder is shared with the launcher.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rvlr import devices, environment
from rvlr.log import logger

GRACE = 300.0
"""Seconds that the others have to end after one has failed: the main process may be writing a checkpoint."""
_POLL_SECONDS = 0.1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch(processes: int) -> None:
    """Lease a GPU for each process. If more than one is wanted and this is none of them yet, run this command that many
    times side by side and exit with their status."""
    if environment.place() is not None:
        return
    leases = devices.lease(processes)
    if processes > 1:
        sys.exit(run([sys.executable, "-m", "rvlr", *sys.argv[1:]], processes, leases))


def run(command: Sequence[str], processes: int, leases: Sequence[int] = (), grace: float = GRACE) -> int:
    """Run `command` as that many processes, and return the exit status of the first that failed, or 0.

    leases: descriptors of locks that the processes keep too, in case they outlive the launcher. grace: seconds between
    the first failure and SIGKILL for those that have not ended.
    """
    with tempfile.TemporaryDirectory(prefix="rvlr-", ignore_cleanup_errors=True) as folder:
        lifeline, end = os.pipe()  # the system closes `end` however the launcher ends
        started: list[subprocess.Popen] = []
        with _forwarding(started) as received:
            for rank in range(processes):
                place = environment.Place(rank, processes, Path(folder), lifeline)
                started.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **place.variables()},
                        stdin=subprocess.DEVNULL,
                        pass_fds=(lifeline, *leases),
                        start_new_session=True,  # Ctrl-C reaches the launcher alone, which passes it on
                    )
                )
            status = _supervise(started, environment.Place(-1, processes, Path(folder), lifeline), received, grace)
        os.close(lifeline)
        os.close(end)
    return status


@contextmanager
def _forwarding(processes: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Pass signals on to the processes; the list holds those that came."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _supervise(started: list[subprocess.Popen], place: environment.Place, received: list[int], grace: float) -> int:
    """Wait for all processes; end the others where one fails."""
    status, deadline = 0, None
    running = dict(enumerate(started))
    while running:
        for rank, process in list(running.items()):
            if (code := process.poll()) is None:
                continue
            del running[rank]
            if code != 0 and deadline is None:
                status, deadline = code if code > 0 else 128 - code, time.monotonic() + grace
                if not received and place.first_to_fail() and code < 0:
                    logger.error("process %d of %d was ended by %s", rank, len(started), _describe(-code))
                if not received or code < 0:  # those that were told to stop, and do, must not be told twice
                    for other in running.values():
                        other.terminate()
        if deadline is not None and time.monotonic() > deadline:
            deadline = math.inf
            for rank, process in running.items():
                logger.warning("process %d of %d has not ended in %.0f s; it is killed", rank, len(started), grace)
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return status


def _describe(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name}, as the system does when memory runs out" if number == signal.SIGKILL else name
