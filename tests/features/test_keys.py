from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vadx.features.keys import collisions, folder_of, key_of, video_id

ROOT = PurePosixPath("/videos")
any_text = st.text(st.characters(exclude_characters="\0"), max_size=300)
plain_text = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,149}", fullmatch=True)


def is_plain(identifier: str) -> bool:
    return key_of(identifier) == identifier


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Abuse001_x264.mp4", "Abuse001_x264"),
        ("Abuse/Abuse001_x264.mp4", "Abuse/Abuse001_x264"),
        ("a/b/c/d.mkv", "a/b/c/d"),
        ("cam.1.2024-01-01.mp4", "cam.1.2024-01-01"),
        ("v1.2/clip.avi", "v1.2/clip"),
        ("archive.tar.gz", "archive.tar"),
        ("video.mp4.part.mp4", "video.mp4.part"),
        ("no_extension", "no_extension"),
        (".mp4", ".mp4"),
        ("my video (1).mp4", "my video (1)"),
        ("a:b.mp4", "a:b"),
        ("-rf.mp4", "-rf"),
        ("line\nbreak.mp4", "line\nbreak"),
        ("e\u0301te\u0301.mp4", "été"),
        ("影片/监控.mp4", "影片/监控"),
        ("😀.mp4", "😀"),
        (os.fsdecode(b"caf\xe9.mp4"), "caf\\xe9"),
        (os.fsdecode(b"\xff/\xfe.mp4"), "\\xff/\\xfe"),
    ],
)
def test_the_id_is_the_path_below_the_root_without_its_last_extension(path: str, expected: str) -> None:
    assert video_id(ROOT / path, ROOT) == expected


@pytest.mark.parametrize("path", ["/elsewhere/a.mp4", "/videos2/a.mp4", "a.mp4"])
def test_a_video_outside_the_root_has_no_id(path: str) -> None:
    with pytest.raises(ValueError, match="videos"):
        video_id(PurePosixPath(path), ROOT)


@given(st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & {0, 47} and name.strip(b".")))
def test_every_file_name_gives_an_id_that_is_text_in_nfc(name: bytes) -> None:
    identifier = video_id(ROOT / os.fsdecode(name + b".mp4"), ROOT)
    assert identifier.encode("utf-8").decode("utf-8") == identifier
    assert unicodedata.is_normalized("NFC", identifier)


@given(any_text)
def test_every_key_is_safe_as_a_file_name(identifier: str) -> None:
    key = key_of(identifier)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,163}", key)
    assert not key.startswith(".")
    assert key not in {".", ".."}
    assert "/" not in f"{folder_of(key)}{key}"


@given(any_text, any_text)
def test_ids_that_are_not_plain_get_keys_of_their_own(a: str, b: str) -> None:
    assume(a != b and not is_plain(a) and not is_plain(b))
    assert key_of(a) != key_of(b)


@given(plain_text)
def test_a_plain_id_is_its_own_key(identifier: str) -> None:
    assert key_of(identifier) == identifier


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        ".",
        "..",
        ".hidden",
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a b",
        "a\0b",
        "a\n",
        "ü",
        "k" * 151,
        "\udcff",
    ],
)
def test_what_could_harm_is_hashed(identifier: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,120}-[0-9a-f]{12}", key_of(identifier))


def test_the_readable_part_of_a_key_is_readable() -> None:
    assert (
        key_of("Abuse/Abuse001_x264")
        == "Abuse-Abuse001_x264-" + hashlib.sha256(b"Abuse/Abuse001_x264").hexdigest()[:12]
    )
    assert key_of("///").startswith("video-")


@given(any_text)
def test_a_key_lies_in_one_of_256_folders(identifier: str) -> None:
    key = key_of(identifier)
    assert folder_of(key) == hashlib.sha256(key.encode()).hexdigest()[:2]


def test_the_folder_of_any_file_that_people_leave_there_can_be_asked_for() -> None:
    for stem in ("copié", "\udcff", "影片"):
        assert re.fullmatch("[0-9a-f]{2}", folder_of(stem))


NFC, NFD = (video_id(ROOT / unicodedata.normalize(form, "été.mp4"), ROOT) for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        ([], set()),
        (["a", "b", "a/b", "a-b", "a b"], set()),
        (["a", "a"], {"a"}),
        (["x y", "x y", "z"], {"x y"}),
        (["Cam1", "cam1", "cam2"], {"Cam1", "cam1"}),
        (["A/x", "a/x"], {"A/x", "a/x"}),
        (["Ä", "ä"], {"Ä", "ä"}),
        ([NFC, NFD], {"été"}),
        (["a b", key_of("a b"), "c"], {"a b", key_of("a b")}),
        (["a b", key_of("a b").upper()], {"a b", key_of("a b").upper()}),
        ([video_id(ROOT / "x.mp4", ROOT), video_id(ROOT / "x.avi", ROOT)], {"x"}),
    ],
)
def test_ids_that_cannot_be_told_apart_are_found(identifiers: list[str], expected: set[str]) -> None:
    assert collisions(identifiers) == expected
    assert collisions(reversed(identifiers)) == expected


@given(st.lists(any_text | plain_text, max_size=8))
def test_ids_without_a_collision_have_keys_that_differ_in_more_than_case(identifiers: list[str]) -> None:
    collided = collisions(identifiers)
    rest = [identifier for identifier in identifiers if identifier not in collided]
    assert len({key_of(identifier).casefold() for identifier in rest}) == len(rest)
