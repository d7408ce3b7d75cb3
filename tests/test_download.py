"""Fetching against a real server on loopback that misbehaves as told, in real processes where they are killed."""

import dataclasses
import hashlib
import json
import logging
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from download_server import BODY, OTHER, Answer, Fetcher, Server

from rvlr.config.sources import Origin
from rvlr.errors import UserError
from rvlr.fetch import download, images
from rvlr.log import Progress
from rvlr.ownership import LEDGER

NAME = "coco-val2014"
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
QUICK = download.Patience(attempts=3, connect=2, read=0.3, back_off=0.001, longest_wait=0.2)
ONCE = dataclasses.replace(QUICK, attempts=1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        yield server


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("rvlr"), "propagate", True)  # as before any log.setup
    caplog.set_level(logging.INFO, "rvlr")
    return caplog


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "val2014.zip"


def fetch(target: Path, *addresses: str, patience: download.Patience = QUICK, **source: object) -> None:
    download.fetch(NAME, Origin(addresses=list(addresses), **source), target, patience=patience)


def failure(target: Path, *addresses: str, patience: download.Patience = QUICK, **source: object) -> str:
    """The message of a fetch that must fail and leave no target."""
    with pytest.raises(UserError) as error:
        fetch(target, *addresses, patience=patience, **source)
    assert not target.exists()
    assert f"sources.{NAME}: " in str(error.value)
    return str(error.value)


def beside(target: Path) -> set[str]:
    return {file.name for file in target.parent.iterdir()} - {target.name, f".{target.name}.lock", LEDGER}


def git_blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


CHECKSUMS = [MD5, f"sha256:{hashlib.sha256(BODY).hexdigest()}", f"git:{git_blob(BODY)}"]


@pytest.mark.parametrize("checksum", [None, *CHECKSUMS])
def test_whole_file(server: Server, target: Path, checksum: str | None) -> None:
    fetch(target, server.address(), checksum=checksum, size=len(BODY))
    assert target.read_bytes() == BODY
    assert not beside(target)
    fetch(target, "http://127.0.0.1:9/nobody")  # complete: no server is needed
    assert target.read_bytes() == BODY


def test_git_checksum_is_what_git_says(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(BODY)
    said = subprocess.run(["git", "hash-object", str(file)], capture_output=True, text=True, check=True).stdout.strip()
    assert said == git_blob(BODY)


@pytest.mark.parametrize("checksum", CHECKSUMS)
def test_wrong_checksum_moves_on_to_the_mirror(
    server: Server, target: Path, log: pytest.LogCaptureFixture, checksum: str
) -> None:
    wrong, right = server.address(Answer(OTHER), path="/wrong.zip"), server.address()
    fetch(target, wrong, right, checksum=checksum)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, None]
    said = next(line for line in log.messages if "a wrong file" in line)
    assert checksum in said
    assert said.count(checksum.partition(":")[0] + ":") == 2  # found and expected


@pytest.mark.parametrize(
    ("answer", "source", "said"),
    [
        (Answer(status=401), {}, "HTTP 401 Unauthorized"),
        (Answer(status=403), {}, "HTTP 403 Forbidden"),
        (Answer(status=404), {}, "HTTP 404 Not Found"),
        (Answer(status=410), {}, "HTTP 410 Gone"),
        (Answer(status=204, body=b""), {}, "HTTP 204 No Content"),
        (Answer(status=206), {}, "HTTP 206 Partial Content"),
        (Answer(status=302, headers={"Location": "ftp://files.invalid/x"}), {}, "No connection adapters"),
        (Answer(headers={"Content-Type": "text/html; charset=utf-8"}), {}, "a web page came instead of the file"),
        (Answer(headers={"Content-Encoding": "gzip"}), {}, "the server compresses the file"),
        (Answer(OTHER[:-7], cut=0), {"size": len(BODY)}, "999,996 bytes found, 1,000,003 expected"),
        (Answer(OTHER[:-7], length=False), {"size": len(BODY) - 8}, "999,996 bytes found, 999,995 expected"),
        (Answer(length=False), {}, "does not say how long the file is"),
        (Answer(surplus=-3), {"checksum": MD5}, f"{MD5} expected"),
        (Answer(b""), {}, "0 bytes found, more expected"),
    ],
)
def test_refused_at_once(server: Server, target: Path, answer: Answer, source: dict, said: str) -> None:
    address = server.address(answer)
    message = failure(target, address, **source)
    assert f"\n  {address}: " in message
    assert said in message
    assert "{existing: PATH}" in message
    assert "{addresses: [URL, ...]}" in message
    assert len(server.requests) == 1
    assert not beside(target)


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=408),
        Answer(status=429),
        Answer(status=429, headers={"Retry-After": "tomorrow or so"}),
        Answer(status=500),
        Answer(status=503),
        Answer(status=302, headers={"Location": "http://127.0.0.1:9/nobody"}),
        Answer(cut=0),
        Answer(hold=0),
    ],
)
def test_tried_again_and_at_last_the_mirror(server: Server, target: Path, bad: Answer) -> None:
    fetch(target, server.address(bad, bad, Answer()))
    assert target.read_bytes() == BODY
    assert len(server.requests) == QUICK.attempts
    target.unlink()
    fetch(target, server.address(bad, path="/bad.zip"), server.address())
    assert target.read_bytes() == BODY
    assert [path for path, _, _ in server.requests].count("/bad.zip") == QUICK.attempts


@pytest.mark.parametrize(
    ("asked", "waits"),
    [("1", 1), ("40", 2), pytest.param(formatdate(time.time() + 86_400, usegmt=True), 2, id="tomorrow")],
)
def test_retry_after_is_honoured_up_to_a_bound(
    server: Server, target: Path, log: pytest.LogCaptureFixture, asked: str, waits: int
) -> None:
    address = server.address(Answer(status=429, headers={"Retry-After": asked}), Answer())
    fetch(target, address, patience=dataclasses.replace(QUICK, longest_wait=2))
    assert target.read_bytes() == BODY
    assert any(f"HTTP 429 Too Many Requests; again in {waits}.0 s" in line for line in log.messages)


def test_every_address_is_named_with_what_happened(server: Server, target: Path) -> None:
    gone, broken = server.address(Answer(status=404), path="/a"), server.address(Answer(status=502), path="/b")
    message = failure(target, gone, broken, "http://user:secret@127.0.0.1:9/c")
    assert f"\n  {gone}: HTTP 404 Not Found\n  {broken}: HTTP 502 Bad Gateway (attempt 3 in a row)\n" in message
    assert re.search(r"\n  http://127.0.0.1:9/c: at byte 0: .*Connection refused", message)
    assert "secret" not in message


def test_without_addresses_the_message_says_where_to_ask(target: Path) -> None:
    with pytest.raises(UserError, match=r"ask for the file at https://shannon\.cs\.illinois\.edu.*existing: PATH"):
        download.fetch("flickr30k-images", Origin(), target)
    assert "no address is known; give a file that you have" in failure(target)


@pytest.mark.parametrize("validator", [{"tag": '"1"'}, {"tag": 'W/"1"', "date": DATE}])
def test_flaky_line_needs_no_more_attempts_than_fail_in_a_row(server: Server, target: Path, validator: dict) -> None:
    fetch(target, server.address(Answer(cut=200_000, **validator)), patience=dataclasses.replace(QUICK, attempts=2))
    assert target.read_bytes() == BODY
    assert len(server.requests) >= 6
    assert sum(server.sent) < 1.5 * len(BODY)
    assert all(ranged and condition == validator.get("date", '"1"') for _, ranged, condition in server.requests[1:])


def test_early_end_of_a_file_whose_length_only_the_source_tells(server: Server, target: Path) -> None:
    fetch(target, server.address(Answer(length=False, cut=500_000), Answer()), size=len(BODY))
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=500000-"]


def test_server_without_ranges_that_always_cuts_comes_to_an_end(server: Server, target: Path) -> None:
    cuts = [Answer(cut=bytes_, ranges=False) for bytes_ in (300_000, 200_000, 400_000, 500_000)]
    message = failure(target, server.address(*cuts))
    assert len(server.requests) == QUICK.attempts
    assert "at byte" in message


@pytest.mark.parametrize(
    ("first", "then", "condition"),
    [
        (Answer(cut=500_000), Answer(), '"1"'),
        (Answer(cut=500_000, tag='W/"1"', date=DATE), None, DATE),
        (Answer(hold=500_000), Answer(), '"1"'),
        (Answer(surplus=50_000, cut=500_000), Answer(), None),  # the server's word on the size has changed
        (Answer(cut=500_000), Answer(ranges=False), None),
        (Answer(cut=500_000), Answer(shift=-9), None),
        (Answer(OTHER, '"0"', cut=500_000), Answer(), None),
        (Answer(OTHER, '"0"', cut=500_000), Answer(heeds_if_range=False), None),
        (Answer(OTHER + b"more", cut=500_000), Answer(), None),
        (Answer(cut=500_000), Answer(BODY[:400_000], heeds_if_range=False), None),
        (Answer(OTHER, None, cut=500_000), Answer(tag=None), None),
    ],
)
def test_next_run_goes_on_or_starts_anew(
    server: Server, target: Path, first: Answer, then: Answer | None, condition: str | None
) -> None:
    """`condition` is what makes the second run's request go on from the part; None where all must come anew."""
    then = then or dataclasses.replace(first, cut=None)
    address = server.address(first)
    failure(target, address, patience=ONCE)
    kept = target.with_name(f".{target.name}.partial").stat().st_size
    assert 0 < kept <= 500_000
    server.address(then)
    fetch(target, address)
    assert target.read_bytes() == then.body
    assert not beside(target)
    if condition is None:
        assert server.sent[-1] == len(then.body)
    else:
        assert server.requests[1:] == [("/file.zip", f"bytes={kept}-", condition)]
        assert server.sent[1] == len(BODY) - kept


def test_part_goes_to_another_mirror_only_if_the_checksum_is_known(server: Server, target: Path) -> None:
    broken = server.address(Answer(cut=500_000), path="/broken.zip")
    mirror = server.address(Answer(tag='"other"'))
    fetch(target, broken, mirror, patience=ONCE)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, None]
    target.unlink()
    fetch(target, broken, mirror, patience=ONCE, checksum=MD5)
    assert target.read_bytes() == BODY
    assert server.sent[3] < len(BODY) <= server.sent[2] + server.sent[3]
    assert server.requests[3][2] is None  # the other mirror's ETag says nothing here


def test_whole_part_of_an_address_no_longer_given_is_not_taken(server: Server, target: Path) -> None:
    failure(target, server.address(Answer(OTHER, cut=500_000), path="/old.zip"), patience=ONCE)
    target.with_name(f".{target.name}.partial").write_bytes(OTHER)
    fetch(target, server.address())
    assert target.read_bytes() == BODY


def test_file_that_changed_is_not_held_against_the_validator_of_the_former(server: Server, target: Path) -> None:
    for cut in (Answer(OTHER, '"0"', cut=500_000), Answer(OTHER, None, cut=500_000)):
        failure(target, server.address(cut), patience=ONCE)
    fetch(target, server.address(Answer(tag=None, heeds_if_range=False)))
    assert target.read_bytes() == BODY


def test_part_that_proves_wrong_is_fetched_anew_from_the_same_address(server: Server, target: Path) -> None:
    failure(target, server.address(Answer(OTHER, cut=500_000)), patience=ONCE, checksum=MD5)
    fetch(target, server.address(), checksum=MD5)
    assert target.read_bytes() == BODY
    assert [ranged is None for ranged in server.ranges] == [True, False, True]
    target.unlink()
    failure(target, server.address(Answer(cut=500_000)), patience=ONCE, checksum=MD5)
    failure(target, server.address(Answer(OTHER, '"2"')), checksum=MD5)
    assert len(server.requests) == 5  # all came anew and is wrong: a second time would bring the same


@pytest.mark.parametrize("length", [len(BODY), len(BODY) + 5])
def test_part_as_long_as_the_file_or_longer(server: Server, target: Path, length: int) -> None:
    failure(target, server.address(Answer(cut=500_000)), patience=ONCE)
    target.with_name(f".{target.name}.partial").write_bytes((BODY + b"extra")[:length])
    fetch(target, server.address())
    assert target.read_bytes() == BODY
    assert len(server.requests) == (1 if length == len(BODY) else 3)  # the longer one meets a 416 first


def test_disk_too_small(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(free=len(BODY) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    message = failure(target, server.address(), server.address(path="/mirror.zip"))
    assert "0.001 GiB are still to come, but only 0.001 GiB are free" in message
    assert str(target.parent) in message
    assert len(server.requests) == 1
    assert not beside(target)
    failure(target, server.address(Answer(length=False)), size=len(BODY))
    assert not beside(target)
    disk.free = len(BODY)
    failure(target, server.address(Answer(cut=500_000)), patience=ONCE)
    disk.free = 600_000
    fetch(target, server.address())  # what is kept needs no room
    assert target.read_bytes() == BODY


def test_archives_need_room_for_their_content_and_are_archives(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimpleNamespace(free=2 * len(BODY) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    source = Origin(addresses=[server.address()])
    with pytest.raises(UserError, match=r"0\.001 GiB are still to come and about 0\.001 GiB to be unpacked from it"):
        download.fetch(NAME, source, target, unpacked=True, patience=QUICK)
    assert not beside(target)
    disk.free += 1
    with pytest.raises(UserError, match="a wrong file: no complete zip or tar archive"):
        download.fetch(NAME, source, target, unpacked=True, patience=QUICK)
    assert not beside(target)


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"sources.{NAME}: .*file/sub: Not a directory"):
        fetch(tmp_path / "file" / "sub" / "val2014.zip", server.address())


def test_proxy_of_the_environment(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "http://files.invalid/x.zip"
    proxy = server.address().removesuffix("/file.zip")
    server.answers[asked] = [Answer(status=302, headers={"Location": "/moved.zip"})]
    server.answers["http://files.invalid/moved.zip"] = [Answer()]
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    fetch(target, asked)
    assert target.read_bytes() == BODY
    assert [path for path, _, _ in server.requests] == [asked, "http://files.invalid/moved.zip"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificate_that_nobody_signed_is_refused_at_once(server: Server, target: Path, tmp_path: Path) -> None:
    server.encrypt(tmp_path)
    message = failure(target, server.address().replace("http:", "https:"))
    assert "CERTIFICATE_VERIFY_FAILED" in message
    assert "in a row" not in message


def test_existing_file_becomes_a_link(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.zip").write_bytes(BODY)
    monkeypatch.chdir(tmp_path)
    for given in ("mine.zip", tmp_path / "mine.zip"):  # the second time it is a link already
        fetch(target, existing=given, size=len(BODY), checksum=MD5)
        assert target.readlink() == tmp_path / "mine.zip"
    (tmp_path / "other.zip").write_bytes(OTHER)
    target.with_name(f".{target.name}.tmp-0.zip").symlink_to("gone")  # what a killed process leaves
    fetch(target, existing="other.zip")
    assert target.read_bytes() == OTHER
    assert not beside(target)
    fetch(tmp_path / "mine.zip", existing="mine.zip")  # never a link to itself
    assert (tmp_path / "mine.zip").read_bytes() == BODY


@pytest.mark.parametrize(
    ("given", "source", "said"),
    [
        ("absent.zip", {}, "absent.zip: no such file"),
        ("folder", {}, "folder: a folder found, a file expected"),
        ("mine.zip", {"size": 5}, "mine.zip: 1,000,003 bytes found, 5 expected"),
        ("mine.zip", {"checksum": f"md5:{'0' * 32}"}, f"mine.zip: checksum {MD5} found, md5:000"),
    ],
)
def test_existing_file_at_fault(target: Path, tmp_path: Path, given: str, source: dict, said: str) -> None:
    (tmp_path / "mine.zip").write_bytes(BODY)
    (tmp_path / "folder").mkdir()
    assert said in failure(target, existing=tmp_path / given, **source)


def test_killed_process_leaves_a_part_that_the_next_one_goes_on_from(
    server: Server, target: Path, tmp_path: Path
) -> None:
    part = target.with_name(f".{target.name}.partial")
    address = server.address(Answer(hold=700_000), Answer())
    fetcher = Fetcher(address, target, tmp_path / "log")
    fetcher.wait_for(lambda: part.exists() and part.stat().st_size > 500_000)
    fetcher.process.send_signal(signal.SIGKILL)
    fetcher.process.wait()
    kept = part.stat().st_size
    assert not target.exists()
    assert Fetcher(address, target, tmp_path / "log").process.wait(60) == 0
    assert target.read_bytes() == BODY
    assert server.requests[1:] == [("/file.zip", f"bytes={kept}-", '"1"')]
    assert server.sent[1] == len(BODY) - kept


def test_two_processes_fetch_once(server: Server, target: Path, tmp_path: Path) -> None:
    address = server.address(Answer(hold=700_000))
    first = Fetcher(address, target, tmp_path / "first.log")
    first.wait_for(lambda: len(server.requests) == 1)
    second = Fetcher(address, target, tmp_path / "second.log")
    second.wait_for(lambda: second.log.exists() and "is at work on it; waiting for it to end" in second.log.read_text())
    server.release.set()
    assert first.process.wait(60) == second.process.wait(60) == 0
    assert target.read_bytes() == BODY
    assert len(server.requests) == 1


def test_progress_tells_bytes_in_units(
    server: Server, target: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "Progress", partial(Progress, interval=0.0))
    fetch(target, server.address(), checksum=MD5)
    assert any(re.match(rf"fetching {NAME} 1.00M/1.00M \(100 %\) .*B/s, 00:00 gone", line) for line in log.messages)
    assert any(re.match(rf"checking {NAME} 1.00M/1.00M \(100 %\)", line) for line in log.messages)


def test_part_that_is_a_link_is_not_written_through(server: Server, target: Path, tmp_path: Path) -> None:
    target.parent.mkdir()
    (tmp_path / "mine.txt").write_text("my own")
    target.with_name(f".{target.name}.partial").symlink_to(tmp_path / "mine.txt")
    fetch(target, server.address(), checksum=MD5)
    assert target.read_bytes() == BODY
    assert (tmp_path / "mine.txt").read_text() == "my own"


@pytest.mark.parametrize("said", ['{"addr', "[1]", ""])
def test_damaged_note_beside_a_part_is_not_used(server: Server, target: Path, said: str) -> None:
    target.parent.mkdir()
    target.with_name(f".{target.name}.partial").write_bytes(BODY[:1000])
    target.with_name(f".{target.name}.partial.json").write_text(said)
    fetch(target, server.address(), checksum=MD5)
    assert target.read_bytes() == BODY
    assert not beside(target)


def test_token_in_an_address_is_not_shown(target: Path) -> None:
    message = failure(target, "http://127.0.0.1:9/file.zip?token=secret")
    assert "127.0.0.1:9/file.zip?..." in message
    assert "secret" not in message


@pytest.mark.parametrize("content", [OTHER, BODY[:-1], b""])
def test_another_file_at_the_target_is_neither_taken_nor_lost(server: Server, target: Path, content: bytes) -> None:
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(UserError, match=r"val2014\.zip: is there, but it is another file: .*; delete it"):
        fetch(target, server.address(), checksum=MD5)
    assert target.read_bytes() == content
    assert not server.requests


def test_another_existing_folder_is_linked_instead(tmp_path: Path) -> None:
    folder = tmp_path / "downloads/coco/images/val2014"
    for name in ("one", "other", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "a.jpg").write_bytes(b"an image")
        images.fetch(NAME, Origin(existing=tmp_path / name), tmp_path / "val2014.zip", folder)
        assert folder.readlink() == tmp_path / name
        assert json.loads(folder.with_name("val2014.json").read_text())["existing"] == str(tmp_path / name)
