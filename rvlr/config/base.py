"""The base of all sections of the configuration, and the types of values that they share."""

import json
import unicodedata
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from rvlr.errors import show

_NOT_IN_PATHS = "{}"  # wildcards to Snakemake


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):  # to Python, true is 1
        raise PydanticCustomError("number_type", "a truth value")
    return value


def _user_path(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError(f"found {value!r} (empty); give a path")
    if value != value.strip():
        raise ValueError(f"found {value!r}, which begins or ends with a space; remove it")
    if value.startswith("-"):
        raise ValueError(f"found {value!r}, which commands would take for an option; give the full path")
    odd = [sign for sign in value if sign in _NOT_IN_PATHS or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")]
    if odd:
        raise ValueError(f"found {value!r} with {odd[0]!r}, which the workflow cannot handle in a path; rename it")
    if len(value) > 4096 or any(len(part.encode(errors="replace")) > 255 for part in value.split("/")):
        raise ValueError(f"found a path of {len(value):,} characters; no file system allows such a name")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"found {value!r}, but there is no such user here; write the path in full") from None


NUMBER = BeforeValidator(_no_truth_value)
"""Last in the annotation of a number, after the limits: the JSON schema would lose the limits otherwise."""
Number = Annotated[float, NUMBER]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1), NUMBER]
UserPath = Annotated[Path, BeforeValidator(_user_path)]
"""A path as people write it; it may begin with ~."""


def _printable(value: Any) -> Any:
    odd = [sign for sign in value if unicodedata.category(sign) in ("Cc", "Cs")] if isinstance(value, str) else []
    if odd:
        raise ValueError(f"found {show(value)} with the control character {odd[0]!r}; remove it")
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("empty", "nothing")
    return value


PlainText = Annotated[str, BeforeValidator(_printable)]
"""Text of at least one visible character, without control characters."""


def plain_values(options: dict[str, Any]) -> dict[str, Any]:
    """Return free-form `options`. Raises ValueError unless they are plain, finite and the same after JSON."""
    try:
        if json.loads(json.dumps(options, allow_nan=False)) != options:
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(
            f"found {show(options)}; give finite numbers, text, true, false, null, and lists and mappings of these"
        ) from None
    return options


class Section(BaseModel):
    """A part of the configuration. Unknown keys, infinite numbers and NaN are refused; values cannot be changed.

    The docstring of each field describes its key in the schema and in `config/README.md`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    title: ClassVar[str]
    """The name in messages of a file with this section; only sections that have files of their own have a title."""
