"""Which job of a machine gets which of its GPUs: a lock for each device, and a queue of the jobs that wait.

All users of the machine share the files in `LOCKS`. Each file is locked by the process that it stands for, and the
system frees a lock when that process ends, for any reason. The files stay: in a sticky folder no user can remove those
of another. `rvlr-UUID.lock` is locked by the job that uses that device; `rvlr-queue-N.lock` by a job that waits, and
says what for; `rvlr-queue.lock` for the moment in which a job looks what is free, and takes it.

**Policy.** Jobs are served in the order in which they came, each in full or not at all: a job that waits holds nothing.

1. A job that can start with what is free, and with what rules 1 and 3 keep for jobs before it left out, starts.
2. So a job may start although one that came before it, and wants more than is free, goes on waiting. If it takes a
   device that the earlier job may use, it has *overtaken* that job.
3. A job that was overtaken `OVERTAKEN` times is not overtaken again: whatever becomes free among the devices that it
   may use is kept for it until it starts.

Hence no device is idle that a waiting job could use, but for two cases: until that job looks again, `POLL_SECONDS` at
most, and by rule 3, which keeps fewer devices than the job wants. And no job starves: after it was overtaken for the
last time it waits only for jobs that hold devices by then and for jobs that came before it. A job that waits but is
suspended, and so has not looked for `SUSPENDED` seconds, keeps its place, and nothing is kept for it meanwhile.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from rvlr import files
from rvlr.errors import UserError
from rvlr.log import progress

POLL_SECONDS = 1.0
SUSPENDED = 60.0
OVERTAKEN = 8
LOCKS = Path("/tmp")
"""Not TMPDIR, which may differ between the users and jobs of a machine."""
_RECORD_BYTES = 1 << 16
_DEVICE = re.compile(r"(GPU|MIG)-[\w/-]{1,200}")
_held: dict[int, os.stat_result] = {}
"""The descriptors of this process' leases, and the files that they are of."""


@dataclass(frozen=True)
class Job:
    """A job that waits for `wanted` of the devices `pool`, which are in the order in which it would take them.

    ticket: its number in the order of arrival. overtaken: how often it was overtaken. looked: when it last looked what
    is free, in seconds of a clock that all processes of the machine share.
    """

    ticket: int
    wanted: int
    pool: tuple[str, ...]
    overtaken: int = 0
    looked: float = 0.0


def choose(queue: Iterable[Job], free: Collection[str], ticket: int) -> list[str]:
    """The devices that the job with this ticket takes now; none if it goes on waiting.

    queue: all jobs that wait, in the order of their tickets. free: the devices that no job uses.
    """
    left = set(free)
    for job in queue:
        usable = [name for name in job.pool if name in left]
        starts = len(usable) >= job.wanted
        if job.ticket == ticket:
            return usable[: job.wanted] if starts else []
        if starts:
            left.difference_update(usable[: job.wanted])
        elif job.overtaken >= OVERTAKEN:
            left.difference_update(usable)
    return []


def take(pool: Sequence[str], wanted: int) -> dict[str, int]:
    """Wait for `wanted` of the devices `pool`, and lock them until this process ends. Returns their names with the
    descriptors of the locks, which programs that this process starts may inherit, but not its forks.

    Raises UserError if a file in `LOCKS` cannot be used.
    """
    with ExitStack() as place:  # in the queue
        ticket = 0
        while True:
            with _turn():
                queue = _queue()
                new = not ticket
                if new:
                    ticket = max(queue, default=0) + 1
                    own = _enter(place, Job(ticket, wanted, tuple(pool)))
                queue.setdefault(ticket, own)
                devices = _look(queue, ticket)
            if devices:
                return devices
            if new:
                message = "waiting for %d of %d GPUs to become free; %d jobs wait that came before"
                progress(message, wanted, len(pool), sum(other < ticket for other in queue))
            time.sleep(POLL_SECONDS)


# --- one look, while no other job looks -----------------------------------------------------------------------------


@contextmanager
def _turn() -> Iterator[None]:
    """Wait until no other job looks; that takes milliseconds."""
    with _opened(LOCKS / "rvlr-queue.lock") as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _look(queue: dict[int, tuple[Path, Job]], ticket: int) -> dict[str, int]:
    """Take what the policy gives to the job with this ticket: names and descriptors of locks, or nothing."""
    now = time.monotonic()
    path, own = queue[ticket]
    queue[ticket] = path, replace(own, looked=now)
    _write(*queue[ticket])
    jobs = [job for _, (_, job) in sorted(queue.items()) if now - job.looked < SUSPENDED]
    with ExitStack() as looking:
        free: dict[str, int] = {}
        for name in sorted({name for job in jobs for name in job.pool}):
            descriptor = looking.enter_context(_opened(LOCKS / f"rvlr-{name.replace('/', '-')}.lock"))
            if files.try_lock(descriptor):
                free[name] = descriptor
        chosen = choose(jobs, free, ticket)
        for path, job in queue.values():
            if job.ticket < ticket and not set(chosen).isdisjoint(job.pool):
                _write(path, replace(job, overtaken=job.overtaken + 1))
        leases = {name: os.dup(free[name]) for name in chosen}  # a copy has the same lock
        _held.update((descriptor, os.fstat(descriptor)) for descriptor in leases.values())
        return leases


def _queue() -> dict[int, tuple[Path, Job]]:
    """The jobs that wait, by ticket, and their files."""
    found: dict[int, tuple[Path, Job]] = {}
    for path in _places():
        if not path.exists():
            return found
        with _opened(path) as descriptor:
            job = None if files.try_lock(descriptor) else _read(descriptor)
            if job is not None:
                found[job.ticket] = path, job
    return found


def _enter(place: ExitStack, job: Job) -> tuple[Path, Job]:
    """Lock the first file of the queue that no job waits at, until `place` ends."""
    for path in _places():
        with ExitStack() as found:
            if files.try_lock(found.enter_context(_opened(path))):
                _write(path, job)
                place.push(found.pop_all())
                return path, job
    raise AssertionError("there is always one more")


def _places() -> Iterator[Path]:
    return (LOCKS / f"rvlr-queue-{number}.lock" for number in count())


def _write(path: Path, job: Job) -> None:
    with _opened(path) as descriptor:
        os.pwrite(descriptor, json.dumps(asdict(job)).encode().ljust(os.fstat(descriptor).st_size), 0)


def _read(descriptor: int) -> Job | None:
    """The job that a file of the queue names; None if it is no such record, since any user may write there."""
    try:
        job = Job(**json.loads(os.pread(descriptor, _RECORD_BYTES, 0)))
        sound = all(type(number) is int and number >= 0 for number in (job.ticket, job.wanted, job.overtaken))
        sound = sound and isinstance(job.pool, list) and all(map(_DEVICE.fullmatch, job.pool))
        return replace(job, pool=tuple(job.pool), looked=float(job.looked)) if sound else None
    except (ValueError, TypeError, RecursionError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock file that every user of the machine can open. In a sticky folder the kernel may refuse O_CREAT for a
    file of another user, hence the attempt without it."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    mask = os.umask(0)
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:  # another stage was faster
            return os.open(path, flags)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; jobs share the GPUs of this machine by it: ask its owner to remove it"
        ) from None
    finally:
        os.umask(mask)


def _forget() -> None:
    """Called in a fork of this process, such as one that loads images: the leases end without it."""
    for descriptor, file in _held.items():
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), file):
                os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
