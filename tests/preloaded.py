"""Stages without the seconds that each takes to import PyTorch: forked from a process that has imported everything.

`python()` stands for `sys.executable` where a test is about what a stage does and not about how its process starts.
Arguments, folder, environment, signals, output and exit status are those of a stage of its own, and so is the orderly
end of the interpreter. Tests that kill processes start real ones.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PLACE = "RVLR_PROCESS"  # see `rvlr.environment.Place`


@functools.cache
def python() -> str:
    """An executable that runs `-m rvlr ...` in a fork of one process, and everything else as Python does. That process
    imports at the first stage, and ends with this one."""
    folder = Path(tempfile.mkdtemp(prefix="rvlr-tests-"))
    executable, address = folder / "python", folder / "socket"
    executable.write_text(
        f"#!{sys.executable} -IS\nimport sys\n\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import preloaded\n\npreloaded.ask({str(address)!r})\n"
    )
    executable.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        number = listening.fileno()
        line = [sys.executable, "-c", f"import preloaded; preloaded.serve({number}, {str(executable)!r})"]
        server = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, pass_fds=[number])
    atexit.register(server.communicate)
    return str(executable)


def stage(line: list[str]) -> list[str]:
    """The command line `python -m rvlr ...` such that `python()` runs it."""
    return [python(), *line[1:]]


def stages_of(line: list[str]) -> list[str]:
    """The command line `python -m snakemake ...` such that `python()` runs its stages."""
    code = f"import sys; sys.executable = {python()!r}; from snakemake.cli import main; main()"
    return [sys.executable, "-c", code, *line[3:]]


def ask(address: str) -> None:
    """What the executable does: hand this process' arguments and descriptors over, and end as the stage ends."""
    if sys.argv[1:3] != ["-m", "rvlr"]:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    descriptors = [0, 1, 2]
    if _PLACE in os.environ:
        descriptors.append(int(os.environ[_PLACE].split(":")[3]))  # the lifeline to the launcher
    socket.send_fds(connection, [b"."], descriptors)
    request = {"arguments": sys.argv[3:], "folder": str(Path.cwd()), "environment": dict(os.environ)}
    connection.sendall(json.dumps(request).encode() + b"\n")
    for number in _FORWARDED:
        signal.signal(number, lambda number, frame: connection.send(bytes([number])))
    status = int(connection.makefile().readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(descriptor: int, executable: str) -> None:
    """Fork a process for each stage that is asked for, until the standard input ends."""
    listening, watchers = socket.socket(fileno=descriptor), set[int]()
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        from storm import PRELOADED

        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()  # or every stage walks through all of it at its end
        connection, _ = listening.accept()
        watchers.add(watcher := os.fork())
        if watcher == 0:
            listening.close()
            _watch(connection, executable)
            return
        connection.close()
        watchers -= {one for one in watchers if os.waitpid(one, os.WNOHANG)[0]}
    for one in watchers:
        os.waitpid(one, 0)
    shutil.rmtree(Path(executable).parent)


def _watch(connection: socket.socket, executable: str) -> None:
    """Fork the stage, pass signals on to it, and its status back; without anybody to ask for it, it is killed."""
    descriptors = socket.recv_fds(connection, 1, 4)[1]
    request = json.loads(connection.makefile("rb", 0).readline())
    stage = os.fork()
    if stage == 0:
        connection.close()
        _run(request, descriptors, executable)
        return
    ended = os.pidfd_open(stage)
    while ended not in select.select([connection, ended], [], [])[0]:
        number = connection.recv(1)
        os.kill(stage, number[0] if number else signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1])
    connection.send(f"{status}\n".encode())
    os._exit(0)


def _run(request: dict, descriptors: list[int], executable: str) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if _PLACE in os.environ:
        _, rank, count, _, folder = os.environ[_PLACE].split(":", 4)
        os.environ[_PLACE] = f"{os.getppid()}:{rank}:{count}:{descriptors[3]}:{folder}"
    import torch

    import rvlr.cli

    torch.set_num_threads(rvlr.environment.threads())
    sys.executable = executable
    sys.argv = [str(Path(rvlr.__file__).with_name("__main__.py")), *request["arguments"]]
    rvlr.cli.main()
