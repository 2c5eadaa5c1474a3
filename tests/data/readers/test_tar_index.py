"""A tar from a stranger: the good ones are read as the standard library reads them, the bad ones say where they end."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.data.images.shards import MemberSpan
from zscir.data.readers.tar_index import MAX_EXTENSION_BYTES, MAX_TAIL_BYTES, TarProblem, read_tar_members

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x4FF, exclude_characters="\\/\x7f"), min_size=1,
                max_size=150).filter(lambda name: name not in (".", "..") and name.isprintable())  # fmt: skip
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def tar_of(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def header(name: str, **fields: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def with_headers(path: Path, *entries: tarfile.TarInfo, good: str = "after.jpg") -> Path:
    """A tar of bare headers, and a good member after them."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            tar.addfile(entry)
        last = header(good, size=3)
        tar.addfile(last, io.BytesIO(b"abc"))
    return path


def found(path: Path) -> list[MemberSpan | TarProblem]:
    return list(read_tar_members(path))


@given(members=st.dictionaries(NAMES, st.binary(max_size=1500), max_size=6), form=FORMATS)
def test_a_good_tar_is_read_as_the_standard_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], form: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "a.tar"
    try:
        tar_of(path, members, form)
    except ValueError:
        return  # USTAR has no room for this name
    with tarfile.open(path) as tar:
        expected = [MemberSpan(member.name, member.offset_data, member.size) for member in tar]
    assert found(path) == expected
    data = path.read_bytes()
    assert [data[member.offset : member.offset + member.size] for member in expected] == list(members.values())


def test_long_names_in_folders_are_whole_in_every_format(tmp_path: Path) -> None:
    name = "/".join(["a" * 60] * 3) + ".jpg"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert [member.name for member in found(tar_of(tmp_path / f"{form}.tar", {name: b"x"}, form))] == [name]


def test_a_leading_dot_and_slash_is_no_part_of_the_name_and_folders_are_no_members(tmp_path: Path) -> None:
    path = with_headers(tmp_path / "a.tar", header("./", type=tarfile.DIRTYPE), header("sub", type=tarfile.DIRTYPE),
                        good="./sub/1.jpg")  # fmt: skip
    assert [member.name for member in found(path)] == ["sub/1.jpg"]


@pytest.mark.parametrize(
    "name", ["../up.jpg", "/root.jpg", "a/../../b.jpg", "a\\b.jpg", "a//b.jpg", "a/./b.jpg", "a\nb.jpg"]
)
def test_a_name_that_leaves_its_folder_is_left_out_and_the_next_member_is_read(tmp_path: Path, name: str) -> None:
    bad, good = found(with_headers(tmp_path / "a.tar", header(name)))
    assert isinstance(bad, TarProblem)
    assert bad.reason == "bad_name"
    assert good.name == "after.jpg"


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"), (tarfile.LNKTYPE, "hard link"), (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"), (tarfile.FIFOTYPE, "pipe"), (b"V", "unknown"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)  # fmt: skip
def test_only_regular_files_are_members(tmp_path: Path, kind: bytes, word: str) -> None:
    path = with_headers(tmp_path / "a.tar", header("odd.jpg", type=kind, linkname="/etc/passwd"))
    bad, good = found(path)
    assert (bad.name, bad.reason) == ("odd.jpg", "odd_member")
    assert word in bad.detail
    assert good.name == "after.jpg"


def test_a_pax_sparse_file_is_left_out(tmp_path: Path) -> None:
    entry = header("holes.jpg", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(10**15)})
    bad, good = found(with_headers(tmp_path / "a.tar", entry))
    assert (bad.reason, good.name) == ("odd_member", "after.jpg")


def test_the_map_of_an_old_sparse_file_is_stepped_over(tmp_path: Path) -> None:
    path = with_headers(tmp_path / "a.tar", header("holes.jpg", type=tarfile.GNUTYPE_SPARSE))
    data = bytearray(path.read_bytes())
    data[482] = 1  # the map goes on in the next block
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    path.write_bytes(data[:512] + bytes(504) + b"\0" * 8 + data[512:])
    bad, good = found(path)
    assert (bad.reason, good.name) == ("odd_member", "after.jpg")


def end_of(path: Path) -> TarProblem:
    last = found(path)[-1]
    assert isinstance(last, TarProblem)
    assert (last.reason, last.name) == ("bad_tar", "")
    return last


@pytest.mark.parametrize("cut", [1, 100, 511, 512, 513, 700, 1011])
def test_a_tar_that_was_cut_gives_what_is_whole_and_says_that_it_was_cut(tmp_path: Path, cut: int) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": b"x" * 500, "2.jpg": b"y" * 500})
    path.write_bytes(path.read_bytes()[: 1024 + cut])
    one, last = found(path)
    assert one.name == "1.jpg"
    assert "truncated" in last.detail


def test_a_tar_without_the_mark_of_its_end_is_reported(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": b"x"})
    path.write_bytes(path.read_bytes()[:1024])
    assert "no end-of-archive mark" in end_of(path).detail
    assert len(found(path)) == 2


def test_an_empty_file_is_a_cut_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    assert "truncated" in end_of(tmp_path / "a.tar").detail


@pytest.mark.parametrize("place", [0, 124, 148, 156, 345])
def test_a_header_that_was_changed_ends_the_reading(tmp_path: Path, place: int) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": b"x", "2.jpg": b"y"})
    data = bytearray(path.read_bytes())
    data[1024 + place] ^= 0x05
    path.write_bytes(data)
    one, last = found(path)
    assert one.name == "1.jpg"
    assert "checksum" in last.detail


def resized(path: Path, field: bytes) -> None:
    """Give the first member another size, and the header the checksum that goes with it."""
    data = bytearray(path.read_bytes())
    data[124:136] = field
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("field", "word"),
    [
        (b"77777777777\0", "truncated"), (b"\x80" + b"\x7f" * 11, "truncated"), (b"\xff" * 12, "no number"),
        (b"-0000000001\0", "no number"), (b"99999999999\0", "no number"), (b"\0" * 12, "no number"),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_ends_the_reading_at_once(tmp_path: Path, field: bytes, word: str) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": b"x"})
    resized(path, field)
    assert word in end_of(path).detail
    assert len(found(path)) == 1


def test_a_size_in_binary_as_of_files_beyond_8_gib_counts(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": b"abc", "2.jpg": b"d"})
    resized(path, b"\x80" + (3).to_bytes(11, "big"))
    assert found(path) == [MemberSpan("1.jpg", 512, 3), MemberSpan("2.jpg", 1536, 1)]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_is_a_bomb_is_not_taken_into_memory(tmp_path: Path, kind: bytes) -> None:
    size = 200 * MAX_EXTENSION_BYTES
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:
        stream.write(header("bomb", type=kind, size=size).tobuf(tarfile.USTAR_FORMAT))
        stream.truncate(512 + size + 1024)
    assert "allowed are" in end_of(path).detail


@pytest.mark.parametrize(
    "record",
    [b"9999 path=a\n", b"0 path=a\n", b"-5 path=a\n", b"path=a\n", b"11 path=abc", b"12 pathxabc\n", b"8 size=1\n",
     b"12 size=abc\n", b"30 size=11111111111111111111\n", b"1" * 5000 + b" size=3\n"],
)  # fmt: skip
@pytest.mark.timeout(30)  # a length of 5,000 digits would take the parser for ever
def test_a_pax_header_that_is_malformed_ends_the_reading(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "a.tar"
    body = record.ljust(-(-len(record) // 512) * 512, b"\0")
    tail = tar_of(tmp_path / "b.tar", {"1.jpg": b"x"}).read_bytes()
    head = header("pax", type=tarfile.XHDTYPE, size=len(record)).tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(head + body + tail)
    assert "extended header" in end_of(path).detail


def test_a_global_header_may_not_name_all_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "x.jpg"}) as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    assert "all members" in end_of(path).detail
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "harmless"}) as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    assert found(path) == [MemberSpan("1.jpg", 2048 - 512, 0)]


def test_a_size_in_a_pax_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        entry = header("1.jpg", size=3, pax_headers={"size": "3"})
        tar.addfile(entry, io.BytesIO(b"abc"))
    (one,) = found(path)
    assert path.read_bytes()[one.offset : one.offset + one.size] == b"abc"


def test_bytes_after_the_end_are_reported_and_padding_is_not(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"1.jpg": b"x"})
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(MAX_TAIL_BYTES // 2))
    assert len(found(path)) == 1
    path.write_bytes(whole + tar_of(tmp_path / "b.tar", {"2.jpg": b"y"}).read_bytes())
    assert "after the end-of-archive" in end_of(path).detail


@pytest.mark.parametrize("junk", [b"\x1f\x8b\x08", b"PK\x03\x04", b"not a tar at all"])
def test_what_is_no_tar_is_reported(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(junk.ljust(2048, b"z"))
    assert "at 0" in end_of(tmp_path / "a.tar").detail


@given(data=st.binary(max_size=4000), at=st.integers(0, 4000))
def test_any_bytes_end_in_members_and_troubles(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tar_of(tmp_path_factory.mktemp("t") / "a.tar", {"1.jpg": b"x" * 700, "2.jpg": b"y"})
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    size = path.stat().st_size
    for member in read_tar_members(path):
        assert isinstance(member, TarProblem) or 0 <= member.offset <= member.offset + member.size <= size
