"""Which job gets which GPU: the policy of the queue, with real locks, and what holds when jobs die."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from rvlr import leases

HERE = Path(__file__).parent
FOUR = [f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(4)]


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(leases, "LOCKS", folder)
    return folder


class Waiter:
    """A job of this process: it looks when it is told to, and not every second."""

    def __init__(self, pool: list[str], wanted: int) -> None:
        self.pool, self.wanted, self.place = pool, wanted, ExitStack()
        self.overtakers: list[Waiter] = []
        self.held: dict[str, int] = {}
        with leases._turn():
            self.ticket = max(leases._queue(), default=0) + 1
            leases._enter(self.place, leases.Job(self.ticket, wanted, tuple(pool), looked=time.monotonic()))

    def look(self) -> bool:
        with leases._turn():
            self.held = leases._look(leases._queue(), self.ticket)
            if self.held:
                self.place.close()
        return bool(self.held)

    def end(self) -> None:
        self.place.close()
        for descriptor in self.held.values():
            os.close(descriptor)
            del leases._held[descriptor]


def test_jobs_start_in_the_order_of_arrival() -> None:
    first, second, third = (Waiter(FOUR, 2) for _ in range(3))
    assert not third.look()  # the others may start first, though they have not looked yet
    assert second.look()
    assert first.look()
    assert [*first.held, *second.held] == FOUR
    assert not third.look()
    first.end()
    assert third.look()
    assert list(third.held) == FOUR[:2]
    second.end()
    third.end()


def test_a_large_job_waits_for_few_small_ones() -> None:
    """Small jobs use what is free while a large job waits; a given number of times, and never again."""
    running = [Waiter(FOUR, 1) for _ in range(4)]
    assert all(job.look() for job in running)
    large = Waiter(FOUR, 4)
    passed = 0
    while not large.look():
        running.pop(0).end()
        if (small := Waiter(FOUR, 1)).look():
            running.append(small)
            passed += 1
        else:
            small.end()
    assert passed == leases.OVERTAKEN
    assert list(large.held) == FOUR
    large.end()


@pytest.mark.parametrize("seed", range(4))
def test_no_gpu_is_shared_idle_for_nothing_or_withheld_for_ever(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of random sizes and pools come, look, end and die while they wait, in random order."""
    monkeypatch.setattr(leases, "OVERTAKEN", 3)
    chance = random.Random(seed)
    waiting: list[Waiter] = []
    running: list[Waiter] = []
    kept_for_a_large_job = started = 0
    for moment in range(250):
        if len(waiting) < 6 and moment < 200:
            pool = chance.sample(FOUR, chance.choice((1, 2, 4, 4)))
            waiting.append(Waiter(pool, min(len(pool), chance.choice((1, 1, 2, 4)))))
        if running and (chance.random() < 0.7 or moment >= 200):
            running.pop(chance.randrange(len(running))).end()
        if waiting and chance.random() < 0.05:
            waiting.pop(chance.randrange(len(waiting))).end()
        while starts := [job for job in chance.sample(waiting, len(waiting)) if job.look()]:
            for job in starts:
                waiting.remove(job)
                running.append(job)
                for other in waiting:
                    if other.ticket < job.ticket and not set(job.held).isdisjoint(other.pool):
                        other.overtakers.append(job)
            started += len(starts)
        held = [name for job in running for name in job.held]
        assert len(held) == len(set(held))
        assert all(len(job.held) == job.wanted and set(job.held) <= set(job.pool) for job in running)
        assert all(len(job.overtakers) <= leases.OVERTAKEN for job in waiting)
        free = set(FOUR) - set(held)
        due = [job for job in waiting if len(job.overtakers) == leases.OVERTAKEN]
        for job in waiting:
            if len(free & set(job.pool)) >= job.wanted:  # it waits, although it could start
                before = [other for other in due if other.ticket < job.ticket]
                kept = free & {name for other in before for name in other.pool}
                assert len(free & set(before[0].pool)) < before[0].wanted
                assert len((free - kept) & set(job.pool)) < job.wanted
                kept_for_a_large_job += 1
    assert not waiting
    assert started > 50
    assert kept_for_a_large_job > 0
    for job in running:
        job.end()


def test_a_suspended_job_is_passed_over_and_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    suspended, second = Waiter(FOUR, 4), Waiter(FOUR, 1)
    assert not second.look()
    monkeypatch.setattr(leases, "SUSPENDED", 0.05)
    time.sleep(0.1)
    assert second.look()
    assert not suspended.look()
    third = Waiter(FOUR, 4)
    second.end()
    assert not third.look()
    assert suspended.look()
    suspended.end()
    third.end()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 500,
        b"[" * 60_000,
        b'{"ticket": 1}',
        b'{"ticket": 1, "wanted": 1, "pool": "GPU-1"}',
        b'{"ticket": 1, "wanted": 1, "pool": ["GPU-../../../etc/passwd\\n"], "looked": 1e9}',
        b'{"ticket": true, "wanted": 1, "pool": ["GPU-1"]}',
        b'{"ticket": 1, "wanted": 1, "pool": ["GPU-1"], "looked": "now"}',
    ],
)
def test_what_others_write_into_the_queue_harms_nobody(locks: Path, content: bytes) -> None:
    garbled, job = Waiter(FOUR, 4), Waiter(FOUR, 4)
    (locks / "rvlr-queue-0.lock").write_bytes(content)
    assert job.look()
    assert {path.name for path in locks.iterdir()} == {
        "rvlr-queue.lock",
        "rvlr-queue-0.lock",
        "rvlr-queue-1.lock",
        *(f"rvlr-{name}.lock" for name in FOUR),
    }
    job.end()
    garbled.end()


def test_a_job_whose_own_place_was_overwritten_still_starts(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = Waiter(FOUR, 4)
    assert holder.look()

    def sleep(seconds: float) -> None:
        (locks / "rvlr-queue-0.lock").write_bytes(b"{}")
        holder.end()

    monkeypatch.setattr(time, "sleep", sleep)
    for descriptor in leases.take(FOUR, 4).values():
        os.close(descriptor)


# --- processes ----------------------------------------------------------------------------------------------------

ONE = """
import os, sys, time
from pathlib import Path
from rvlr import leases
leases.LOCKS = Path(sys.argv[1])
leases.take(["GPU-1"], 1)
if (child := os.fork()) == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


def test_a_lease_ends_with_its_process_and_not_with_what_that_forked(locks: Path) -> None:
    """Processes that load images are forks, and may live for some seconds after a SIGKILL."""
    process = subprocess.Popen([sys.executable, "-c", ONE, str(locks)], stdout=subprocess.PIPE, text=True)
    fork = int(process.stdout.readline())
    second = Waiter(["GPU-1"], 1)
    assert not second.look()
    process.kill()
    process.wait()
    os.kill(fork, 0)  # it lives
    assert second.look()
    os.kill(fork, signal.SIGKILL)
    second.end()
    process.stdout.close()


@pytest.mark.slow
def test_two_hundred_jobs_of_two_users_that_die_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    listed = "".join(f"GPU {number}: NVIDIA H100 (UUID: {uuid})\\n" for number, uuid in enumerate(FOUR))
    program.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    program.chmod(0o755)
    (tmp_path / "used").mkdir()
    for name in FOUR:
        (tmp_path / "used" / name).touch()
        (tmp_path / "used" / name).chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    users = ["12345", "54321"] if os.geteuid() == 0 else []
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(HERE / "leases_worker.py"), str(tmp_path), "200", *users],
        capture_output=True,
        text=True,
        timeout=120,
        env={**environment, "PYTHONPATH": str(HERE.parent)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert set(ends) == {"0", "-9"}, (ends, done.stderr)
    assert sum(ends.values()) == 200
    assert min(ends.values()) > 50
    assert all(path.stat().st_mode & 0o777 == 0o666 for path in leases.LOCKS.iterdir())
    if users:
        assert {path.stat().st_uid for path in leases.LOCKS.iterdir()} <= set(map(int, users))
    everything = Waiter(FOUR, 4)  # nothing is left locked, and nobody waits
    assert everything.ticket == 1
    assert everything.look()
    everything.end()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
