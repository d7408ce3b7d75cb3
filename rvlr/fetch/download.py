"""Fetching: from the origin of one file, its addresses or an existing file, to a complete and checked target.

Meanwhile three files lie beside the target NAME: `.NAME.partial` has the bytes that have come, `.NAME.partial.json`
what the server said of the file, and `.NAME.lock` makes a second process wait. A broken transfer resumes from its last
byte (RFC 9110, sections 13.1.5 and 14), even after a kill.
"""

import hashlib
import re
import shutil
import ssl
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from rvlr import files
from rvlr.config.sources import SOURCES, Origin
from rvlr.errors import UserError
from rvlr.log import Progress, logger

CHUNK = 1 << 16
_PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)$")


@dataclass(frozen=True)
class Patience:
    """How long an address is tried; times in seconds.

    attempts: failures in a row; an attempt that resumed from a kept part and added to it counts as the first. connect,
    read: how long to wait for a connection and for the next bytes. back_off: the longest first wait between attempts;
    it doubles with each, up to longest_wait, which also bounds what a server may ask for.
    """

    attempts: int = 8
    connect: float = 10
    read: float = 30
    back_off: float = 1
    longest_wait: float = 60


PATIENCE = Patience()


class _RefusedError(Exception):
    """An address does not give the file; the message says why."""


class _BrokenError(Exception):
    """An attempt failed in a way that may pass; `wait` is what the server asked for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def fetch(name: str, source: Origin, target: Path, unpacked: bool = False, patience: Patience = PATIENCE) -> None:
    """Make `target` the complete, checked file `name` of the table `SOURCES`; a complete one is left as it is.

    unpacked: it is an archive of images that will be unpacked on the same disk. They need about as much room as it
    does, since they are compressed already.

    With `source.existing`, `target` becomes a link to that file; without, such a link is replaced. The addresses are
    tried in order, and a part that an earlier run left is resumed if the server still has the same file, or if its
    checksum is known. Several processes may fetch the same target: one does, the others wait. Raises UserError if no
    address gives the file, the existing file is missing or another one, or the disk is too small.
    """
    try:
        with files.alone(target):
            if source.existing is not None:
                _link(name, source, source.existing.absolute(), target)
            elif target.is_dir() and not target.is_symlink():
                raise UserError(f"sources.{name}: {target}: a folder is where the file belongs; move it away")
            elif target.is_symlink() or not target.exists():
                _Transfer(name, source, target, unpacked, patience).run()
            elif problem := _problem(name, source, target):
                raise UserError(
                    f"sources.{name}: {target}: is there, but it is another file: {problem}; delete it, and it is "
                    "fetched again, or give its own size and checksum"
                )
    except OSError as error:
        where = error.filename or target.parent
        raise UserError(f"sources.{name}: {where}: {error.strerror or error}; fix this and run again") from error


def _link(name: str, source: Origin, file: Path, target: Path) -> None:
    """Check an existing file and make `target` a link to it."""
    where = f"sources.{name}: existing: {file}"
    try:
        files.check_file(file)
    except UserError as error:
        raise UserError(f"sources.{name}: existing: {error}; {_remedy(name)}") from None
    if problem := _problem(name, source, file):
        raise UserError(f"{where}: {problem}; give the right file, or its own size and checksum beside existing")
    if target.exists() and target.samefile(file):
        return
    if target.exists() and not target.is_symlink():
        raise UserError(f"{where}: {target} is a file already; delete that file to use the other, or drop `existing`")
    files.link(target, file)
    logger.info("sources.%s: %s links to %s", name, target, file)


class _Transfer:
    """One file on its way to `target`; the caller has the lock."""

    def __init__(self, name: str, source: Origin, target: Path, unpacked: bool, patience: Patience) -> None:
        self.name, self.source, self.target, self.unpacked, self.patience = name, source, target, unpacked, patience
        self.part = files.unfinished(target)
        self.about = self.part.with_name(f"{self.part.name}.json")
        self.inherited = False  # the part has bytes of an earlier run or another address
        self.start = 0  # the byte from which this attempt resumed
        self.back_off = wait_random_exponential(multiplier=patience.back_off, max=patience.longest_wait)

    def run(self) -> None:
        """Try the addresses in order until the target is there, or raise UserError with what happened at each."""
        failures = []
        for file in (self.part, self.about):
            if file.is_symlink():
                file.unlink()  # never write through a link into another file
        for address in self.source.addresses:
            try:
                self._bring(address)
            except _RefusedError as error:
                failures.append(f"\n  {_shown(address)}: {error}")
                logger.warning("sources.%s: %s: %s", self.name, _shown(address), error)
                continue
            files.sync(self.part)
            files.put(self.part, self.target)
            self.about.unlink(missing_ok=True)
            logger.info("sources.%s: %s is complete", self.name, self.target)
            return
        if not failures:
            raise UserError(f"sources.{self.name}: no address is known; {_remedy(self.name)}")
        raise UserError(f"sources.{self.name}: no address gave the file:{''.join(failures)}\n{_remedy(self.name)}")

    def _bring(self, address: str) -> None:
        """Bring the whole, checked file into the part."""
        self.inherited = self.part.exists()
        retrying = Retrying(
            retry=retry_if_exception_type(_BrokenError),
            stop=stop_after_attempt(self.patience.attempts),
            wait=self._wait,
            after=self._reset_count,
            before_sleep=self._log_failure,
            reraise=True,
        )
        try:
            retrying(self._attempt, address)
        except _BrokenError as error:
            raise _RefusedError(f"{error} (attempt {self.patience.attempts} in a row)") from None
        problem = _problem(self.name, self.source, self.part)
        if self.unpacked and not (zipfile.is_zipfile(self.part) or tarfile.is_tarfile(self.part)):
            problem = problem or "no complete zip or tar archive"
        if problem is None:
            return
        inherited = self.inherited
        self._discard()
        if not inherited:
            raise _RefusedError(f"a wrong file: {problem}")
        logger.warning("sources.%s: the part that was kept was wrong (%s); starting again", self.name, problem)
        self._bring(address)

    def _attempt(self, address: str) -> None:
        """Receive what is missing; requests' errors become `_BrokenError` if they may pass, else `_RefusedError`."""
        self.start = 0
        try:
            self._receive(address)
        except requests.RequestException as error:
            cause = _cause(error)
            if isinstance(error, _PASSING) and not isinstance(cause, ssl.SSLCertVerificationError):
                raise _BrokenError(f"at byte {self._length():,}: {cause}") from error
            raise _RefusedError(str(cause)) from error

    def _receive(self, address: str) -> None:
        kept = self._length()
        about = self._said(kept)
        own = about.get("address") == address
        if kept and kept == about.get("total") and (own or self.source.checksum):
            return  # stopped between the last byte and the check
        headers = {"Accept-Encoding": "identity"}
        validator = about.get("validator") if own else None
        if kept and (validator or self.source.checksum):
            headers["Range"] = f"bytes={kept}-"
            if validator:
                headers["If-Range"] = validator
        timeout = (self.patience.connect, self.patience.read)
        with requests.get(address, headers=headers, stream=True, timeout=timeout) as answer:
            total = self._examine(answer, "Range" in headers) or self.source.size
            if answer.status_code == 206:
                self._check_same(answer, kept, {total, about.get("total")}, validator)
            else:
                kept, validator, self.inherited = 0, None, False
                self._discard()
            validator = _validator(answer) or validator  # an answer with a range may leave out the date
            self._check_room(total, kept)
            files.write_json(self.about, {"address": address, "total": total, "validator": validator})
            logger.info("sources.%s: fetching %s from byte %s", self.name, _shown(address), f"{kept:,}")
            self.start = kept
            progress = Progress(f"fetching {self.name}", total, "B", start=kept)
            with self.part.open("ab") as stream:
                for chunk in answer.iter_content(CHUNK):
                    stream.write(chunk)
                    kept += len(chunk)
                    progress.update(kept)
        if total is not None and kept < total:
            raise _BrokenError(f"{kept:,} of {total:,} bytes came")

    def _said(self, kept: int) -> dict[str, Any]:
        """What the server said of the file of which `kept` bytes are there; nothing if that is unknown."""
        if not kept or not self.about.exists():
            return {}
        try:
            about: dict[str, Any] = files.read_json(self.about)
            return about
        except UserError as error:
            logger.warning("sources.%s: %s; removed", self.name, error)
            self.about.unlink()
            return {}

    def _examine(self, answer: requests.Response, ranged: bool) -> int | None:
        """The size of the whole file, None if the answer does not say; raises if the answer brings no bytes of it."""
        status, said = answer.status_code, f"HTTP {answer.status_code} {answer.reason}"
        if status in (408, 429) or status >= 500:
            raise _BrokenError(said, _retry_after(answer))
        if status != 200 and not (ranged and status in (206, 416)):
            raise _RefusedError(said)
        if status != 416:
            self._check_kind(answer)
        total = _content_range(answer)[1] if status != 200 else _content_length(answer)
        if self.source.size and total not in (None, self.source.size):
            raise _RefusedError(f"a wrong file: {total:,} bytes found, {self.source.size:,} expected")
        if status == 416:
            self._discard()
            raise _BrokenError(f"{said}: what was kept is no part of the file; starting again")
        checkable = self.source.size or self.source.checksum or answer.raw.chunked
        if total is None and status == 200 and not checkable:
            raise _RefusedError(
                "the server does not say how long the file is, so whether all of it came cannot be checked; "
                f"give its size or checksum, sources: {{{self.name}: {{size: BYTES}}}}"
            )
        return total

    def _check_kind(self, answer: requests.Response) -> None:
        kind, encoding = answer.headers.get("Content-Type", ""), answer.headers.get("Content-Encoding", "identity")
        page = kind.lower().startswith("text/html") and self.target.suffix not in (".html", ".htm")
        if page and self.source.checksum is None:
            raise _RefusedError(f"a web page came instead of the file (Content-Type: {kind}), perhaps to log in")
        if encoding != "identity":
            raise _RefusedError(f"the server compresses the file (Content-Encoding: {encoding}), unasked")

    def _check_same(self, answer: requests.Response, kept: int, totals: set[int | None], validator: str | None) -> None:
        """Discard the part and raise `_BrokenError` unless the answer continues at its end, in the same file, whose
        `totals`, where known, and `validator`, if any, must agree."""
        same = validator is None or _validator(answer) in (None, validator)
        if not same or _content_range(answer)[0] != kept or len(totals - {None}) > 1:
            self._discard()
            raise _BrokenError("the server's file is another one than the part that was kept; starting again")

    def _check_room(self, total: int | None, kept: int) -> None:
        if total is None:
            return
        free, content = shutil.disk_usage(self.target.parent).free, total if self.unpacked else 0
        if total - kept + content > free:
            unpacking = f" and about {content / 2**30:,.3f} GiB to be unpacked from it" if content else ""
            raise UserError(
                f"sources.{self.name}: {(total - kept) / 2**30:,.3f} GiB are still to come{unpacking}, but only "
                f"{free / 2**30:,.3f} GiB are free in {self.target.parent}; make room there, or {_remedy(self.name)}"
            )

    def _length(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def _wait(self, state: RetryCallState) -> float:
        asked = _failure(state).wait
        return min(asked, self.patience.longest_wait) if asked else self.back_off(state)

    def _reset_count(self, state: RetryCallState) -> None:
        # only for transfers that were resumed: those from a server without ranges that always breaks off must end
        if 0 < self.start < self._length():
            state.attempt_number = 1

    def _log_failure(self, state: RetryCallState) -> None:
        address, failure, wait = _shown(state.args[0]), _failure(state), state.upcoming_sleep
        logger.warning("sources.%s: %s: %s; again in %.1f s", self.name, address, failure, wait)


def _failure(state: RetryCallState) -> _BrokenError:
    failure = state.outcome and state.outcome.exception()
    assert isinstance(failure, _BrokenError), "nothing else is tried again"
    return failure


def _remedy(name: str) -> str:
    request = SOURCES[name].request
    return (
        (f"ask for the file at {request}, then " if request else "")
        + f"give a file that you have, sources: {{{name}: {{existing: PATH}}}}, "
        + f"or where to fetch it, sources: {{{name}: {{addresses: [URL, ...]}}}}"
    )


def _problem(name: str, source: Origin, file: Path) -> str | None:
    """What is wrong with a file's size or checksum, if anything."""
    size = file.stat().st_size
    if size != (source.size or size) or size == 0:
        return f"{size:,} bytes found, {f'{source.size:,}' if source.size else 'more'} expected"
    if source.checksum is None:
        return None
    kind = source.checksum.partition(":")[0]
    checksum = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        checksum.update(b"blob %d\0" % size)
    done, progress = 0, Progress(f"checking {name}", size, "B")
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            checksum.update(chunk)
            done += len(chunk)
            progress.update(done)
    found = f"{kind}:{checksum.hexdigest()}"
    return None if found == source.checksum else f"checksum {found} found, {source.checksum} expected"


def _validator(answer: requests.Response) -> str | None:
    """What If-Range may name: a strong ETag, else the date of the last change."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _content_length(answer: requests.Response) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _content_range(answer: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole file, each None if the answer does not say."""
    found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    first, total = found.groups() if found else (None, "*")
    return None if first is None else int(first), None if total == "*" else int(total)


def _retry_after(answer: requests.Response) -> float | None:
    try:
        return Retry().get_retry_after(answer.raw)
    except InvalidHeader:
        return None


def _cause(error: BaseException) -> BaseException:
    """The innermost of nested errors, which says what happened without the address."""
    inner = [value for value in (getattr(error, "reason", None), *error.args) if isinstance(value, BaseException)]
    return _cause(inner[0]) if inner else error


def _shown(address: str) -> str:
    """An address without a password, or a token behind its question mark."""
    return re.sub(r"\?.*", "?...", re.sub(r"//[^/@]*@", "//", address))
