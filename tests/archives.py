"""Archives as tests make them: members by name, or by an info of their own, with their content."""

import io
import random
import tarfile
import zipfile
from pathlib import Path

NOISE = random.Random(0).randbytes(5000)  # cannot be packed any further
Members = list[tuple[str | zipfile.ZipInfo | tarfile.TarInfo, bytes]]


def make_zip(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for member, content in members:
            file.writestr(member, content, method)
    return path


def make_tar(path: Path, members: Members, packing: str = "gz") -> Path:
    with tarfile.open(path, f"w:{packing}") as file:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if isinstance(member, str):
                info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path
