"""Run by test_leases: jobs of two users that lease GPUs, and die at random. Prints how they ended, as JSON."""

import collections
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from rvlr import devices, files, leases

AT_ONCE = 24
folder, jobs, users = Path(sys.argv[1]), int(sys.argv[2]), list(map(int, sys.argv[3:]))
names = [path.name for path in sorted((folder / "used").iterdir())]
leases.POLL_SECONDS, leases.LOCKS = 0.02, folder / "locks"


def work(number: int) -> None:
    """One job: it marks the devices that it got, and ends in one of several ways. Exit status 3: they were marked."""
    chance = random.Random(number)
    if users:
        os.setuid(chance.choice(users))
    os.umask(0o077)
    if chance.random() < 0.3:
        os.environ["CUDA_VISIBLE_DEVICES"] = chance.choice(["0,1", "3,2", names[3], ",".join(names)])
    most = len(os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3").split(","))
    wanted = min(chance.choice((1, 1, 1, 2, 2, 4)), most)
    # opened before the leases, so that the system, which closes files in this order, frees the marks first
    marks = {name: os.open(folder / "used" / name, os.O_RDWR) for name in names}
    devices.lease(wanted)
    got = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    if len(set(got)) != wanted or not all(files.try_lock(marks[name]) for name in got):
        os._exit(3)
    time.sleep(chance.random() * 0.03)
    if chance.random() < 0.3:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


running: set[int] = set()
ends: collections.Counter[str] = collections.Counter()
chance = random.Random(1)
for number in range(jobs):
    if (child := os.fork()) == 0:
        work(number)
    running.add(child)
    while len(running) >= (AT_ONCE if number < jobs - 1 else 1):
        if chance.random() < 0.1:
            os.kill(chance.choice(sorted(running)), signal.SIGKILL)
        child, status = os.wait()
        running.remove(child)
        ends[str(os.waitstatus_to_exitcode(status))] += 1
sys.stdout.write(json.dumps(ends))
