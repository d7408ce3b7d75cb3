"""The base of all sections of the configuration, and the types of values that they share."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
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


# --- names and numbers ----------------------------------------------------------------------------------------------


def _check_repetition(name: str) -> str:
    """Names become wildcards of Snakemake, to which a long repetition looks like an endless recursion of its rules."""
    if re.search(r"(.+?)\1{19}$", name):
        raise ValueError(
            f"found {name!r}; Snakemake refuses names that end in the same characters 20 times; shorten it"
        )
    return name


# Upper limits are generous: above them a run would never end, or fill the memory, before it could say why.
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?$",
        max_length=100,  # with what results add to it, still the name of a file
        json_schema_extra={
            "allowed": "a name of letters, digits, '.', '_' and '-', beginning with a letter or digit, not ending in "
            "'.', of at most 100 characters"
        },
    ),
    AfterValidator(_check_repetition),
]
Fraction = Annotated[float, Field(ge=0, le=1), NUMBER]
Beta = Annotated[float, Field(ge=0, lt=1), NUMBER]
Above0 = Annotated[float, Field(gt=0), NUMBER]
Positive = Annotated[int, Field(ge=1, le=10**9), NUMBER]
Epsilon = Annotated[float, Field(gt=0, lt=1), NUMBER]
Temperature = Annotated[float, Field(ge=1e-4, le=1e4), NUMBER]  # finite, and not 0 in single precision
Layers = Annotated[int, Field(ge=1, le=100), NUMBER]
Width = Annotated[int, Field(ge=1, le=2**16), NUMBER]
Tokens = Annotated[int, Field(ge=4, le=2**16, json_schema_extra={"unit": "tokens"}), NUMBER]
Words = Annotated[int, Field(ge=1, le=2**16, json_schema_extra={"unit": "words"}), NUMBER]
Workers = Annotated[int, Field(ge=0, le=256), NUMBER]
Processes = Annotated[int, Field(ge=1, le=64), NUMBER]
Batch = Annotated[int, Field(ge=1, le=2**20), NUMBER]
Weight = Annotated[float, Field(ge=0), NUMBER]
Triple = tuple[Number, Number, Number]


def pixels(least: int, most: int) -> Any:
    return Field(ge=least, le=most, json_schema_extra={"unit": "pixels"})
