"""What all sections of the configuration have in common."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path as people write it, which may begin with ~."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """One line of JSON with all defaults filled in; the same settings always give the same line."""
        return self.model_dump_json()
