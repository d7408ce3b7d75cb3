"""What made a result: the commit, the versions, and digests of inputs."""

import hashlib
import json
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rvlr import __version__

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "accelerate", "numpy", "pillow", "rapidfuzz")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identify(path: Path) -> dict[str, str]:
    """The name and the SHA-256 of a file that something was made from."""
    return {"file": path.name, "sha256": sha256(path)}


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@cache
def _commit() -> str | None:
    """The git commit of the source tree the package runs from, '-dirty' appended if files changed; None outside git."""
    source = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        tracked = git("ls-files", "__init__.py")
        if not tracked:  # installed inside somebody else's repository
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", str(source)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def _processor() -> str | None:
    """The name of the processor; None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


def _gpu() -> str | None:
    """The name of the GPU that this process computes on; None on a CPU. Nothing starts to use a GPU because of it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    name: str = torch.cuda.get_device_name()
    return name


def collect() -> dict[str, Any]:
    """What made a result: version, commit, platform and the versions that numbers depend on. Contains no time
    stamps, so that the same run writes the same bytes."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "rvlr": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "gpu": _gpu(),
        "packages": packages,
    }
