"""Run as two processes in test_distributed: they take steps together, and something happens to one of them."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from rvlr import cli as command_line
from rvlr import log
from rvlr.distributed import Processes, processes
from rvlr.errors import UserError

event, place, victim, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])


def happen(group: Processes, here: str) -> float:
    """What happens to the victim if this is the place; the value is what is validated."""
    if here != place or group.place.rank != victim:
        return 0.1
    if event in ("SIGSTOP", "SIGKILL"):
        os.kill(os.getpid(), signal.Signals[event])
    elif event == "fault":
        raise UserError("step 2: the loss is infinite")
    elif event == "bug":
        raise ZeroDivisionError("a bug")
    elif event == "long":
        time.sleep(3 * timeout)
    return 0.1


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def work() -> None:
    log.setup()
    with processes(2, timeout=timeout) as group:
        for step in range(3):
            group.at(f"step {step}")
            if step == 2:
                happen(group, "step")
            dist.all_reduce(torch.ones(1))
        answer = group.by_main(lambda: happen(group, "validation"), "validation after step 2")
        happen(group, "writing")
        say(f"validated {answer}")
    say("gone")


command_line.app = work
command_line.main()
