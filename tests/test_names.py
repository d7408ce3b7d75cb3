"""A missing image: the message names the file that was probably meant."""

from pathlib import Path

import pytest

from rvlr.data.images import ImageError, decode

NFC, NFD = "caf\u00e9.jpg", "cafe\u0301.jpg"


@pytest.mark.parametrize(
    ("there", "given", "message"),
    [
        (
            NFD,
            NFC,
            r"under the name 'caf\\xe9\.jpg' \(Unicode form NFC\), but as 'cafe\\u0301\.jpg' \(NFD\)",
        ),
        (NFC, NFD, r"'cafe\\u0301\.jpg' \(Unicode form NFD\), but as 'caf\\xe9\.jpg' \(NFC\), which looks the same"),
        (f"{NFD[:5]}/a.jpg", f"{NFC[:4]}/a.jpg", r"'caf\\xe9/a\.jpg' .* 'cafe\\u0301/a\.jpg'"),
        ("Cat.jpg", "cat.jpg", r"is it 'Cat\.jpg' in .*images\?"),
        ("cat.JPG", "cat.jpg", r"is it 'cat\.JPG'"),
        ("cat.jpeg", "cat.jpg", r"is it 'cat\.jpeg'"),
        ("cat.jpg", "cat.jpg ", r"is it 'cat\.jpg'"),
        ("cat.jpg ", "cat.jpg", r"is it 'cat\.jpg '"),
        ("a/b/cat.jpg", "a\\b\\cat.jpg", r"is it 'a/b/cat\.jpg'"),
        ("A/cat.jpg", "a/cat.jpg", r"is it 'A/cat\.jpg'"),
        ("a cat.jpg", "a%20cat.jpg", r"is it 'a cat\.jpg'"),
        ("cat.jpg", "images/cat.jpg", r"is it 'cat\.jpg' in"),
        ("dog.jpg", "cat.jpg", r"is not in .*images; correct the name or put the file there"),
        ("dog.jpg", "a\\cat.jpg", r"write / between folders, correct the name"),
        ("cat.gif", "cat.jpg", r"is not in .*images; correct the name"),
    ],
)
def test_missing_image(tmp_path: Path, there: str, given: str, message: str) -> None:
    file = tmp_path / "images" / there
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    with pytest.raises(ImageError, match=message):
        decode(tmp_path / "images" / given)


def test_a_file_that_comes_later_is_seen(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="correct the name or put"):
        decode(tmp_path / "cat.jpg")
    (tmp_path / "CAT.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match="is it 'CAT"):
        decode(tmp_path / "cat.jpg")


def test_links_and_names_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").symlink_to("gone.jpg")
    with pytest.raises(ImageError, match=r"is a link to gone\.jpg, which is not there"):
        decode(tmp_path / "cat.jpg")
    with pytest.raises(ImageError, match="cannot be read: File name too long; shorten its name"):
        decode(tmp_path / ("c" * 300))
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    with pytest.raises(ImageError, match="cannot be read: Too many levels of symbolic links; check the file"):
        decode(tmp_path / "round.jpg")
