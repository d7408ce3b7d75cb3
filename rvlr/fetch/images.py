"""Folders of images: fetched as an archive and unpacked, or linked to."""

from pathlib import Path

from rvlr import files, provenance
from rvlr.config.sources import Origin
from rvlr.errors import UserError
from rvlr.fetch import download, unpack


def fetch(name: str, source: Origin, archive: Path, folder: Path) -> None:
    """Make the folder of images and a record of it, .json, beside it. Both stay as they are if they are there."""
    record = folder.with_name(f"{folder.name}.json")
    with files.alone(record):
        if record.exists() and folder.is_dir() and not _linked_elsewhere(source, record, folder):
            return
        if source.existing is not None and source.existing.is_dir():
            try:
                unpack.link_images(source.existing, folder)
            except UserError as error:
                raise UserError(f"sources.{name}: existing: {error}") from None
        elif folder.is_symlink() and not folder.exists():
            raise UserError(
                f"sources.{name}: {folder} links to {folder.readlink()}, which is not there; connect its disk, or "
                "delete the link to have the images fetched"
            )
        elif folder.is_dir():
            unpack.check_images(folder, source.images)
        else:
            download.fetch(name, source, archive, unpacked=True)
            try:
                unpack.unpack_images(archive, folder, source.images)
            except UserError as error:
                given = source.existing
                raise error if given is None else UserError(f"sources.{name}: existing: {given}: {error}") from None
        files.write_json(record, {"source": name, **source.model_dump(mode="json"), "provenance": provenance.collect()})


def _linked_elsewhere(source: Origin, record: Path, folder: Path) -> bool:
    """Whether the folder is a link that another `existing` led to."""
    if source.existing is None or not folder.is_symlink():
        return False
    return bool(files.read_json(record).get("existing") != source.model_dump(mode="json")["existing"])
