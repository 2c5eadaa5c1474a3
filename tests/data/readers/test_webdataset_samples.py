"""What of a tar becomes a sample, and why the rest does not."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.readers.made_tars import sample, tar_of
from zscir.data.readers.webdataset_samples import LeftOutMember, SampleLayout, TarSample, read_samples

READING = SampleLayout("url", None, None, 1, 100)


def read(tmp_path: Path, *members: Any, reading: SampleLayout = READING) -> list[TarSample | LeftOutMember]:
    return list(read_samples(tar_of(tmp_path / "a.tar", members), "a.tar", reading))


def left_out(found: list[TarSample | LeftOutMember]) -> list[tuple[str, str]]:
    return [(item.place, item.reason) for item in found if isinstance(item, LeftOutMember)]


def test_the_text_may_stand_anywhere_in_the_json(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Describe this."}, {"from": "gpt", "value": "a bus"}]
    reading = SampleLayout("url", "conversations.1.value", None, 1, 100)
    (one,) = read(tmp_path, ("1.png", b"x"), ("1.json", json.dumps({"conversations": talk})), reading=reading)
    assert isinstance(one, TarSample)
    assert (one.text, one.url) == ("a bus", "file:a.tar/1.png")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("1.jpg", b"x")], "no_text"), ([("1.txt", "t")], "no_image"),
        ([("1.jpg", b"x"), ("1.txt", " \n")], "no_text"),
        ([("1.jpg", b"x"), ("1.png", b"x"), ("1.txt", "t")], "two_images"),
        ([("1.jpg", b"x"), ("1.JPG", b"x"), ("1.txt", "t")], "duplicate_member"),
        ([("1.jpg", b"x"), ("1.txt", b"\xff\xfe")], "bad_encoding"),
        ([("1.jpg", b"x"), ("1.txt", "t" * 101)], "long_text"),
        ([("1.jpg", b"x"), ("1.txt", "t" * 1_000_001)], "large_text"),
        ([("1.jpg", b"x"), ("1.txt", "t"), ("1.json", "{")], "bad_json"),
        ([("1.jpg", b"x"), ("1.txt", "t"), ("1.json", "[" * 100_000)], "bad_json"),
        ([("1.jpg", b"x"), ("1.txt", "t"), ("1.json", "[]")], "bad_json"),
        ([("1.jpg", b"x"), ("1.txt", "t"), ("1.json", '{"url": "http://a.test:x/"}')], "bad_url"),
    ],
)  # fmt: skip
def test_a_sample_that_is_none_says_why_and_the_next_is_read(tmp_path: Path, members: list[Any], reason: str) -> None:
    found = read(tmp_path, *members, ("2.jpg", b"x"), ("2.txt", "t"))
    assert left_out(found) == [("a.tar#1", reason)]
    assert [item.place for item in found if isinstance(item, TarSample)] == ["a.tar#2"]


@pytest.mark.parametrize("url", [None, "", 7, "file:///etc/passwd", "ftp://a.test/1", "a.jpg"])
def test_a_sample_that_names_no_web_address_is_known_by_its_place(tmp_path: Path, url: object) -> None:
    (one,) = read(tmp_path, ("sub.x/1.jpg", b"x"), ("sub.x/1.json", json.dumps({"url": url})), ("sub.x/1.txt", "t"))
    assert isinstance(one, TarSample)
    assert one.url == "file:a.tar/sub.x/1.jpg"


def test_a_key_that_comes_again_later_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, *sample("1"), *sample("2"), *sample("1", "another"))
    assert left_out(found) == [("a.tar#1", "duplicate_key")]
    assert len(found) == 3


def test_pickles_and_other_members_are_counted_and_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "opened"),)

    trap = pickle.dumps(Trap())
    members = [("1.jpg", b"x"), ("1.pyd", trap), ("1.pkl", trap), ("1.cls", "3"), ("1.txt", "t"), ("._1.jpg", b"m"),
               ("2.jpg", b"x"), ("2.cls", "3"), ("2.seg.png", b"x"), ("2.txt", "t"), ("README", "r")]  # fmt: skip
    found = read(tmp_path, *members)
    assert [item.place for item in found if isinstance(item, TarSample)] == ["a.tar#1", "a.tar#2"]
    assert {item.detail: item.count for item in found if isinstance(item, LeftOutMember)} == {
        "cls": 2, "pkl": 1, "pyd": 1, "seg.png": 1, "no ending": 2,
    }  # fmt: skip
    assert not (tmp_path / "opened").exists()


KEYS = st.sampled_from(["1", "2", "3", "x/1"])
KINDS = st.sampled_from(["jpg", "png", "txt", "json", "cls", "pyd"])
CONTENT = st.sampled_from([b"", b"t", b"{}", b'{"url": "http://a.test/1"}', b"\xff", b"[1]"])


@settings(max_examples=60)
@given(members=st.lists(st.tuples(KEYS, KINDS, CONTENT), max_size=20))
def test_every_member_of_any_tar_is_in_a_sample_or_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("tars")
    found = read(folder, *((f"{key}.{kind}", data) for key, kind, data in members))
    runs = [key for number, (key, kind, _) in enumerate(members) if number == 0 or members[number - 1][0] != key]
    ignored = sum(item.count for item in found if isinstance(item, LeftOutMember) and item.reason == "ignored")
    assert ignored == sum(kind in ("cls", "pyd") for _, kind, _ in members)
    assert len(found) - len({kind for _, kind, _ in members if kind in ("cls", "pyd")}) == len(runs)
