"""Files that belong together by line or by name."""

import gzip
from pathlib import Path

import pytest

from zscir.data.readers.parallel_files import rows_by_line, rows_by_name
from zscir.data.readers.url_lists import MAX_LINE_BYTES, ListRow
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

NAMES = {"url": "*_urls.txt*", "caption": "*_captions.txt*"}


def put(folder: Path, **files: bytes) -> Artifact:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return Artifact.of_folder(folder)


def by_line(files: Artifact, wanted: tuple[str, ...] = ("url", "caption")) -> list[tuple[str, ListRow]]:
    return [(row.file, row.row) for row in rows_by_line(files.files(), files.path, NAMES, list(wanted))]


def test_the_nth_lines_are_the_nth_row_whatever_stands_in_them(tmp_path: Path) -> None:
    captions = 'one\u2028with a separator of Unicode\nt\x85wo\r\n\nfour, "quoted"\tand so on'.encode()
    files = put(tmp_path / "in", a_urls__txt=b"u1\nu2\nu3\nu4\n", a_captions__txt__gz=gzip.compress(captions))
    assert by_line(files) == [
        ("a_urls.txt", ListRow(1, b"u1", "one\u2028with a separator of Unicode".encode())),
        ("a_urls.txt", ListRow(2, b"u2", "t\x85wo".encode())), ("a_urls.txt", ListRow(3, b"u3", b"")),
        ("a_urls.txt", ListRow(4, b"u4", b'four, "quoted"\tand so on')),
    ]  # fmt: skip


@pytest.mark.parametrize(("urls", "captions", "ends"), [(b"1\n2\n3\n", b"1\n2\n", "a_captions.txt: ends after 2"),
                                                        (b"1\n", b"1\n2\n", "a_urls.txt: ends after 1")])  # fmt: skip
def test_files_of_unequal_length_are_refused(tmp_path: Path, urls: bytes, captions: bytes, ends: str) -> None:
    files = put(tmp_path / "in", a_urls__txt=urls, a_captions__txt=captions)
    with pytest.raises(RequestError, match=f"{ends} lines, and not all of .* do: they do not belong together"):
        by_line(files)


def test_a_pattern_must_name_one_file(tmp_path: Path) -> None:
    files = put(tmp_path / "in", a_urls__txt=b"", b_urls__txt=b"", a_captions__txt=b"")
    with pytest.raises(RequestError, match=r"2 files are named '\*_urls.txt\*' where one is meant"):
        by_line(files)
    with pytest.raises(
        RequestError, match=r"no text file is named for the column 'licence'; `lines` has \['caption', 'url'\]"
    ):
        by_line(files, ("url", "caption", "licence"))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    files = put(tmp_path / "in", a_urls__txt=b"u\n" * 1000, a_captions__txt__gz=gzip.compress(b"t\n" * 1000)[:-9])
    with pytest.raises(RequestError, match=r"a_captions\.txt\.gz.*cannot be read as text"):
        by_line(files)


def test_an_endless_line_is_cut_and_its_neighbours_are_not_moved(tmp_path: Path) -> None:
    files = put(tmp_path / "in", a_urls__txt=b"u1\nu2\n", a_captions__txt=b"x" * (2 * MAX_LINE_BYTES + 7) + b"\ntwo\n")
    (_, first), (_, second) = by_line(files)
    assert (len(first.text), second) == (MAX_LINE_BYTES, ListRow(2, b"u2", b"two"))


def test_a_picture_and_the_text_of_its_name_are_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    files = put(folder, b__jpg=b"x", b__txt=b"of b\n", a__b__PNG=b"x", a__b__txt=b"of a.b", mute__webp=b"x",
                lonely__txt=b"t", notes__md=b"n")  # fmt: skip
    (folder / "sub").mkdir()
    (folder / "sub/b.jpg").write_bytes(b"x")
    files = Artifact.of_folder(folder)
    found = list(rows_by_name(files.files(), files.path, ".txt"))
    assert [(row.file, row.row.url, row.row.text) for row in found if row.row.problem is None] == [
        ("a.b.PNG", "a.b.PNG", b"of a.b"), ("b.jpg", "b.jpg", b"of b\n"), ("mute.webp", "mute.webp", None),
        ("sub/b.jpg", "sub/b.jpg", None),
    ]  # fmt: skip
    assert [row.file for row in found if row.row.problem is not None] == ["lonely.txt"]
