"""Why an image is not found: what it may be called on the disk instead.

Names that look the same can differ: "é" is one sign (Unicode form NFC) or two (NFD, as macOS writes it). And names come
from other systems: with backslashes, percent signs, other capitals. A name is looked for in these variants, only to be
named in a message; what is opened is what the captions file says.
"""

import unicodedata
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from rvlr.errors import show

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # the same picture may have been converted


def explain_missing(path: Path) -> str:
    """Why there is no image at `path` and how to fix it, in words that follow its name."""
    if path.is_symlink():
        return f"is a link to {path.readlink()}, which is not there; correct the link or put the file there"
    where = f"is not in {path.parent}"
    near = _find(path)
    if near is None:
        slash = "write / between folders, " if "\\" in path.name else ""
        return f"{where}; {slash}correct the name or put the file there"
    base, name = near
    given = path.relative_to(base).as_posix()
    if given != name and _composed(given) == _composed(name):
        return (
            f"{where} under the name {given!a} (Unicode form {_form(given)}), but as {name!a} "
            f"({_form(name)}), which looks the same; write the name in that form or rename the file"
        )
    return f"{where}; is it {show(name)} in {base}? Correct the name or rename the file"


def _find(path: Path) -> tuple[Path, str] | None:
    """A file with nearly the path `path`: the folder down to which both agree, and its path below that."""
    base = path.parent
    while not base.is_dir():
        base = base.parent
    wanted = unquote(path.relative_to(base).as_posix()).replace("\\", "/").strip().split("/")
    if base.name == wanted[0] and len(wanted) > 1 and base.joinpath(*wanted[1:]).is_file():
        return base, "/".join(wanted[1:])  # the folder of images was named twice
    found = base
    for part in wanted:
        names = _names(found, found.stat().st_mtime_ns) if found.is_dir() else {}
        name = names.get(_key(part)) or names.get(_stem(_key(part)))
        if name is None:
            return None
        found = found / name
    return (base, found.relative_to(base).as_posix()) if found.is_file() else None


@lru_cache(maxsize=8)
def _names(folder: Path, changed: int) -> dict[str, str]:
    """The names in a folder by the keys and stems under which they are looked for; `changed`, the time of the folder's
    last change, keeps the cache of this function valid."""
    names = sorted(path.name for path in folder.iterdir())
    return {_stem(_key(name)): name for name in reversed(names)} | {_key(name): name for name in reversed(names)}


def _key(name: str) -> str:
    return _composed(name.strip()).casefold()


def _stem(key: str) -> str:
    path = PurePosixPath(key)
    return f"{path.stem if path.suffix in _SUFFIXES else key}/"  # no name contains a slash


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _form(name: str) -> str:
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "mixed")
