"""Starting a stage as several processes, and ending them together.

The launcher remains the parent of the processes. It forwards signals and ends all processes when one of them fails. Its
exit status is that of the first process that failed. The processes find each other through PyTorch's own rendezvous,
see `rvlr.distributed`; with the launcher they share a folder only.
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
"""Seconds that the other processes have to end after one has failed: the main process may be writing a checkpoint."""
Started = list[subprocess.Popen[bytes]]
_POLL_SECONDS = 0.1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def launch(processes: int, gpu_required: bool = False) -> None:
    """Lease a GPU for each process, see `rvlr.devices.lease`. For more than one process, run this command once for each
    of them, and exit with the status of `run`. In a process that the launcher started, return at once."""
    if environment.place() is not None:
        return
    leases = devices.lease(processes, gpu_required)
    if processes > 1:
        sys.exit(run([sys.executable, "-m", "rvlr", *sys.argv[1:]], processes, leases))


def run(command: Sequence[str], processes: int, leases: Sequence[int] = (), grace: float = GRACE) -> int:
    """Run `command` in that many processes. Returns the exit status of the first process that failed, or 0.

    leases: descriptors of locks that the processes inherit, in case the launcher ends before them. grace: seconds
    between the first failure and SIGKILL for the processes that have not ended.
    """
    with tempfile.TemporaryDirectory(prefix="rvlr-", ignore_cleanup_errors=True) as folder:
        lifeline, end = os.pipe()  # the system closes `end` when the launcher ends, also by SIGKILL
        started: Started = []
        with _forwarding(started) as received:
            for rank in range(processes):
                place = environment.Place(rank, processes, Path(folder), lifeline)
                started.append(
                    subprocess.Popen(
                        command,
                        env={**os.environ, **place.variables()},
                        stdin=subprocess.DEVNULL,
                        pass_fds=(lifeline, *leases),
                        start_new_session=True,  # Ctrl-C reaches the launcher only, which forwards it
                    )
                )
            status = _supervise(started, environment.Place(-1, processes, Path(folder), lifeline), received, grace)
        os.close(lifeline)
        os.close(end)
    return status


@contextmanager
def _forwarding(processes: Started) -> Iterator[list[int]]:
    """Forward signals to the processes. Yields the list of the signals received so far."""
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


def _supervise(started: Started, place: environment.Place, received: list[int], grace: float) -> int:
    """Wait for all processes; when one fails, end the others."""
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
                if not received or code < 0:  # processes that are stopping on a signal must not get a second one
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
