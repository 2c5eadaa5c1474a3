import io
import tarfile
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.data.download.repack import verify_tar
from zscir.data.images.shards import BadShard, MemberSpan, ShardReader, index_shard, read_members, write_shard
from zscir.runtime.errors import StageError

SOME = [("a.jpg", b"12345"), ("a.json", b"{}"), ("b.jpg", b""), ("b.txt", b"x" * 1000)]


def test_a_shard_says_where_each_member_lies(tmp_path: Path) -> None:
    spans = write_shard(tmp_path / "0.tar", SOME)
    whole = (tmp_path / "0.tar").read_bytes()
    assert [(span.name, whole[span.offset : span.offset + span.size]) for span in spans] == SOME
    assert index_shard(tmp_path / "0.tar") == spans


def test_long_names_do_not_shift_the_offsets(tmp_path: Path) -> None:
    named = [("d" * 90 + "/" + "n" * 120 + ".jpg", b"first"), ("\N{SNOWMAN}.jpg", b"second")]
    spans = write_shard(tmp_path / "0.tar", named)
    with ShardReader(lambda _: tmp_path / "0.tar") as reader:
        assert [reader.read("0.tar", span.offset, span.size) for span in spans] == [b"first", b"second"]


def test_equal_members_give_equal_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        write_shard(tmp_path / name, iter(SOME))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        entries = tar.getmembers()
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "", "a\\b", "a\nb", "./a", "a//b", ".."])
def test_a_name_that_leaves_its_folder_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(StageError, match="may not hold a member named"):
        write_shard(tmp_path / "0.tar", [(name, b"")])


def test_a_member_cannot_come_twice(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="comes twice"):
        write_shard(tmp_path / "0.tar", [("a", b"1"), ("a", b"2")])


@given(cut=st.integers(0, 10239))
def test_a_truncated_shard_is_never_read_as_a_whole_one(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "0.tar"
    images = {span.name: span for span in write_shard(path, SOME) if span.name.endswith(".jpg")}
    path.write_bytes(path.read_bytes()[:cut])
    try:
        found = [(span.name, data) for span, data in read_members(path)]
    except BadShard:
        return
    assert found == SOME[: len(found)]
    # tarfile takes a cut between two members for the end: only verify_tar, which knows the images, can find that.
    whole = images.keys() <= {name for name, _ in found}
    with nullcontext() if whole else pytest.raises(BadShard, match="are not in it"):
        verify_tar(path, images, {name: sha256(data).hexdigest() for name, data in SOME})


def strange(entry: tarfile.TarInfo, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_a_foreign_tar_with_an_escaping_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "0.tar").write_bytes(strange(tarfile.TarInfo(name)))
    with pytest.raises(BadShard, match="may not hold"):
        index_shard(tmp_path / "0.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_regular_files_are_members(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("a")
    entry.type, entry.linkname = kind, "/etc/passwd"
    (tmp_path / "0.tar").write_bytes(strange(entry))
    with pytest.raises(BadShard, match="not a regular file"):
        index_shard(tmp_path / "0.tar")


def test_a_member_larger_than_the_limit_is_refused_unread(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [("a", b"x" * 2000)])
    with pytest.raises(BadShard, match="2000 bytes; allowed are 1999"):
        list(read_members(tmp_path / "0.tar", max_member_bytes=1999))


def test_a_reader_gives_exactly_the_span_or_an_error(tmp_path: Path) -> None:
    [span, *_] = write_shard(tmp_path / "0.tar", SOME)
    with ShardReader(lambda name: tmp_path / name) as reader:
        assert reader.read("0.tar", span.offset, span.size) == b"12345"
        for wrong in (
            MemberSpan("", -1, 1),
            MemberSpan("", 0, -1),
            MemberSpan("", 10_239, 2),
            MemberSpan("", 0, 10**12),
        ):
            with pytest.raises(BadShard):
                reader.read("0.tar", wrong.offset, wrong.size)


def test_a_reader_holds_a_bounded_number_of_files_open(tmp_path: Path) -> None:
    for number in range(80):
        write_shard(tmp_path / f"{number}.tar", [("a", b"%d" % number)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ShardReader(lambda name: tmp_path / name) as reader:
        for number in (*range(80), *range(80)):
            assert reader.read(f"{number}.tar", 512, len(str(number))) == b"%d" % number
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 65
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
