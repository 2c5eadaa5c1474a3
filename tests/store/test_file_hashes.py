"""Files outside the store: read once, and again whenever they may have changed."""

import json
import os
import time
from pathlib import Path

import pytest

from zscir.runtime.errors import RequestError
from zscir.store import file_hashes
from zscir.store.artifacts import Artifact
from zscir.store.file_hashes import hash_files_cached

SETTLED_S = file_hashes.MIN_MTIME_AGE_NS / 1e9


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own as far as its memory goes."""
    monkeypatch.setattr(file_hashes, "_SCAN_CACHE", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (root / name).write_bytes(name.encode())
    return root


def look(root: Path, tmp_path: Path, *, same_process: bool = False) -> Artifact:
    if not same_process:
        file_hashes._SCAN_CACHE.clear()
    return hash_files_cached([root], str(root), tmp_path / "cache")


def remembered(tmp_path: Path) -> dict[str, list[object]]:
    files = list((tmp_path / "cache/digests").glob("*.json"))
    return {} if not files else json.loads(files[0].read_text())["files"]


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been written long ago: no test can set a ctime."""
    monkeypatch.setattr(file_hashes, "MIN_MTIME_AGE_NS", -1)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    read: list[str] = []
    whole = file_hashes.sha256_of

    def watched(path: str) -> str:
        read.append(Path(path).name)
        return whole(path)

    monkeypatch.setattr(file_hashes, "sha256_of", watched)
    return read


def test_a_view_is_that_of_the_plain_way(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        found, plain = look(folder, tmp_path), Artifact.of_folder(folder)
        assert (found.digest, found.key, found.entries) == (plain.digest, plain.key, plain.entries)
        assert found.path("sub/c.jpg") == folder / "sub/c.jpg"
    chosen = hash_files_cached([folder / "b.jpg", folder / "a.jpg"], "*.jpg", tmp_path / "cache")
    assert chosen.digest == Artifact.of_files([folder / "a.jpg", folder / "b.jpg"], "").digest
    assert (
        hash_files_cached([folder / "a.jpg"], "a.jpg", tmp_path / "cache").digest
        == Artifact.of_folder(folder / "a.jpg").digest
    )
    with pytest.raises(RequestError, match="nowhere: no such file or folder"):
        hash_files_cached([], "nowhere", tmp_path / "cache")


def test_an_unchanged_file_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    first = look(folder, tmp_path)
    read = read_files(monkeypatch)
    assert look(folder, tmp_path).digest == first.digest
    assert look(folder, tmp_path, same_process=True) is look(folder, tmp_path, same_process=True)
    assert read == []
    assert len(remembered(tmp_path)) == 3


def test_a_changed_file_is_read_again_even_under_its_old_size_and_date(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first, path = look(folder, tmp_path), folder / "b.jpg"
    before = path.stat()
    time.sleep(0.02)  # a clock tick of the file system
    path.write_bytes(b"B.jpg")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) == (
        before.st_size, before.st_mtime_ns, before.st_ino,
    )  # fmt: skip
    read = read_files(monkeypatch)
    assert look(folder, tmp_path, same_process=True).digest == Artifact.of_folder(folder).digest != first.digest
    assert read == ["b.jpg"]


def test_another_file_under_the_name_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    look(folder, tmp_path)
    (tmp_path / "other").write_bytes(b"x.jpg")
    os.replace(tmp_path / "other", folder / "a.jpg")
    assert look(folder, tmp_path).digest == Artifact.of_folder(folder).digest


def test_files_that_come_and_go_are_seen_and_forgotten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    look(folder, tmp_path)
    (folder / "a.jpg").unlink()
    (folder / "new.jpg").write_bytes(b"new")
    assert look(folder, tmp_path, same_process=True).digest == Artifact.of_folder(folder).digest
    assert {Path(path).name for path in remembered(tmp_path)} == {"b.jpg", "c.jpg", "new.jpg"}


def test_a_file_written_just_now_is_not_remembered_yet(folder: Path, tmp_path: Path) -> None:
    look(folder, tmp_path)
    assert remembered(tmp_path) == {}
    (folder / "b.jpg").write_bytes(b"B.jpg")  # perhaps within one tick of the file system's clock
    assert look(folder, tmp_path, same_process=True).digest == Artifact.of_folder(folder).digest


def test_where_the_clock_of_the_files_has_not_moved_on_nothing_is_trusted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse(read: os.stat_result) -> tuple[int, ...]:
        tick = 3600 * 10**9
        return read.st_size, (read.st_mtime_ns // tick + 1) * tick, (read.st_ctime_ns // tick + 1) * tick, 0, 0

    monkeypatch.setattr(file_hashes, "_stat_fields", coarse)
    for same_process, data in ((False, b"a.jpg"), (True, b"A.jpg"), (True, b"B.jpg"), (False, b"C.jpg")):
        (folder / "a.jpg").write_bytes(data)
        assert look(folder, tmp_path, same_process=same_process).digest == Artifact.of_folder(folder).digest


def test_a_file_that_has_settled_is_remembered(folder: Path, tmp_path: Path) -> None:
    time.sleep(SETTLED_S + 0.1)
    look(folder, tmp_path)
    assert len(remembered(tmp_path)) == 3


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    whole = file_hashes.sha256_of

    def disturbed(path: str) -> str:
        digest = whole(path)
        if path.endswith("a.jpg"):
            Path(path).write_bytes(b"changed meanwhile")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(file_hashes, "sha256_of", disturbed)
        look(folder, tmp_path)
    assert {Path(path).name for path in remembered(tmp_path)} == {"b.jpg", "c.jpg"}
    assert look(folder, tmp_path).digest == Artifact.of_folder(folder).digest


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99, "files": {}}', '{"format": 1, "files": 3}'])
def test_a_damaged_memory_only_costs_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    settle(monkeypatch)
    digest = look(folder, tmp_path).digest
    (file,) = (tmp_path / "cache/digests").glob("*.json")
    for bad in (content, json.dumps({"format": 1, "files": {str(folder / "a.jpg"): 7, str(folder / "b.jpg"): []}})):
        file.write_text(bad)
        assert look(folder, tmp_path).digest == digest
        assert len(remembered(tmp_path)) == 3


def test_a_cache_that_cannot_be_written_only_costs_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settle(monkeypatch)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level("INFO", logger="zscir"):
        assert look(folder, tmp_path).digest == Artifact.of_folder(folder).digest
    assert "digests could not be saved" in caplog.text


def test_the_cache_of_two_folders_and_of_single_files_live_side_by_side(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    look(folder, tmp_path)
    hash_files_cached([folder / "a.jpg"], "a.jpg", tmp_path / "cache")
    look(folder / "sub", tmp_path)
    read = read_files(monkeypatch)
    look(folder, tmp_path)
    look(folder / "sub", tmp_path)
    assert read == []
