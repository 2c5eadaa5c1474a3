import os
import shutil
from pathlib import Path

import pytest

from tests.support.toys import CopySpec, ShardsSpec, copies, shards, store_at
from zscir.pipeline.stage import materialize, stage_key
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.settings import DEFAULT_STORE, Settings
from zscir.store.artifacts import MANIFEST
from zscir.store.store import open_store

SPEC = ShardsSpec(shards=3, blocks=1)
KEY = stage_key(shards, SPEC, {})


@pytest.fixture
def made(store):
    return materialize(store, shards, SPEC, {}).artifact


def change(store, name, data):
    """Put other bytes under the name of a file of the artifact, as a hand or a broken disk would."""
    store.fs.pipe_file(store.address("shards", KEY, name), data)


def test_an_artifact_lies_under_stage_and_key_with_its_manifest(store, made):
    names = sorted(path[len(store.root) + 1 :] for path in store.fs.find(store.address("shards")))
    files = ["00000.bin", "00001.bin", "00002.bin", "manifest.json", "rejects.parquet"]
    assert names == [f"shards/{KEY}/{name}" for name in files]
    assert store.list_keys() == [("shards", KEY)]
    assert store.get("shards", KEY) == made


def test_an_artifact_without_a_manifest_is_none(store, made):
    store.fs.rm_file(store.address("shards", KEY, MANIFEST))
    assert store.lookup("shards", KEY).problem == "no artifact"
    assert store.list_keys() == []
    with pytest.raises(RequestError, match="no artifact; run the pipeline again"):
        store.get("shards", KEY)


def test_a_missing_file_is_seen_and_made_again(store, made):
    store.fs.rm_file(store.address("shards", KEY, "00001.bin"))
    found = store.lookup("shards", KEY)
    assert (found.artifact, found.problem) == (None, "file missing: 00001.bin")
    again = materialize(store, shards, SPEC, {})
    assert (again.outcome, again.artifact.digest) == ("made", made.digest)
    assert store.lookup("shards", KEY, verify=True).problem == ""


def test_a_truncated_file_is_seen_and_made_again(store, made):
    change(store, "00001.bin", b"\0\1")
    assert store.lookup("shards", KEY).problem == "file damaged: 00001.bin has 2 bytes, the manifest says 3000"
    assert materialize(store, shards, SPEC, {}).artifact.digest == made.digest


def test_other_bytes_of_the_same_length_are_seen_by_verify(store, made):
    change(store, "00001.bin", bytes(3000))
    assert store.lookup("shards", KEY).problem == ""
    assert "00001.bin does not have the digest" in store.lookup("shards", KEY, verify=True).problem


def test_files_that_the_manifest_does_not_name_are_not_there(store, made):
    store.fs.pipe_file(store.address("shards", KEY, "stray.bin"), b"stray")
    assert "stray.bin" not in store.get("shards", KEY).files()


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b'{"stage": "shards"}'])
def test_a_damaged_manifest_counts_as_none_and_is_made_again(store, made, text):
    change(store, MANIFEST, text)
    assert "manifest damaged" in store.lookup("shards", KEY).problem
    assert materialize(store, shards, SPEC, {}).artifact == made


def test_a_folder_copied_to_another_key_is_not_taken_for_it(store, made):
    other = "f" * 64
    for path in store.fs.find(store.address("shards", KEY)):
        store.fs.makedirs(os.path.dirname(path).replace(KEY, other), exist_ok=True)
        store.fs.pipe_file(path.replace(KEY, other), store.fs.cat_file(path))
    assert store.lookup("shards", other).problem == f"manifest of another artifact: shards/{KEY[:12]}"


def test_a_manifest_of_a_newer_zscir_is_not_overwritten(store, made):
    text = store.read_text("shards", KEY, MANIFEST).replace('"format":1', '"format":2')
    change(store, MANIFEST, text.encode())
    with pytest.raises(RequestError, match="manifest format 2"):
        materialize(store, shards, SPEC, {})
    assert store.read_text("shards", KEY, MANIFEST) == text


def test_the_table_of_an_artifact_without_manifest_is_not_among_the_artifact_files(store, made, tmp_path):
    assert len(store.artifact_files("rejects.parquet", tmp_path / "scratch")) == 1
    store.fs.rm_file(store.address("shards", KEY, MANIFEST))
    assert store.artifact_files("rejects.parquet", tmp_path / "scratch") == []


def test_a_store_in_a_folder_with_odd_signs_works(tmp_path):
    store = store_at(tmp_path / "a [b] *c? 'd' 100%", tmp_path / "cache")
    parent = materialize(store, shards, SPEC, {}).artifact
    child = materialize(store, copies, CopySpec(), {"first": parent, "others": []}).artifact
    assert store.list_keys() == sorted([("shards", parent.key), ("copies", child.key)])
    assert child.path("deep/copy.bin").exists()


def test_a_store_may_be_moved(tmp_path):
    made = materialize(store_at(tmp_path / "here", tmp_path / "cache"), shards, SPEC, {}).artifact
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = materialize(store_at(tmp_path / "there", tmp_path / "cache"), shards, SPEC, {})
    assert (moved.outcome, moved.artifact.digest) == ("reused", made.digest)


def test_making_an_artifact_leaves_nothing_in_the_work_folder(tmp_path):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    materialize(store, shards, SPEC, {})
    left = [path for path in store.scratch.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_trash_of_a_killed_commit_is_swept_when_the_key_is_made_again(tmp_path):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    trash = store.scratch / f".trash-{KEY}-123"
    trash.mkdir(parents=True)
    (trash / "old.bin").write_bytes(b"old")
    materialize(store, shards, SPEC, {})
    assert not trash.exists()


def test_a_relative_store_and_a_file_address_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = store_at("./zscir-store", tmp_path / "cache")
    absolute = store_at(f"file://{tmp_path}/zscir-store", tmp_path / "cache")
    made = materialize(relative, shards, SPEC, {})
    assert materialize(absolute, shards, SPEC, {}).outcome == "reused"
    assert absolute.get("shards", KEY).path("00000.bin") == made.artifact.path("00000.bin")


def test_the_option_wins_over_the_environment_and_the_environment_over_the_default(monkeypatch):
    monkeypatch.delenv("ZSCIR_STORE", raising=False)
    assert Settings.from_env().store == DEFAULT_STORE
    monkeypatch.setenv("ZSCIR_STORE", "s3://bucket/x")
    assert Settings.from_env().store == "s3://bucket/x"
    assert Settings.from_env("here").store == "here"


@pytest.mark.parametrize("address", ["s3://", "s3:///", "http://host/store", "gs://bucket", "nosuch://x", "memory://x"])
def test_an_address_that_is_no_store_is_refused(address, tmp_path):
    with pytest.raises(RequestError, match="use a folder or s3://bucket/prefix"):
        open_store(Settings(address, tmp_path))


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("I am a file")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RequestError, match="is a file, not a folder"):
            store_at(place, tmp_path / "cache").check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RequestError, match="no permission"):
        store_at(tmp_path / "closed" / "store", tmp_path / "cache").check()


def test_a_check_writes_nothing(store, tmp_path):
    store.check()
    assert list(tmp_path.iterdir()) == []
    assert store.fs.find(store.root) == []


def test_a_full_disk_is_a_stage_error_that_names_the_store(tmp_path):
    store = store_at("/dev/full/store", tmp_path / "cache")
    (tmp_path / "a").write_text("x")
    with pytest.raises(StageError, match="store /dev/full/store"):
        store.write_file(tmp_path / "a", "lineage", "x")


def test_reading_a_text_that_is_not_there_gives_none(store):
    assert store.read_text("shards", "0" * 64, MANIFEST) is None


def test_local_paths_are_the_files_themselves(tmp_path):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    artifact = materialize(store, shards, SPEC, {}).artifact
    assert artifact.path("00002.bin") == Path(store.root) / "shards" / KEY / "00002.bin"
