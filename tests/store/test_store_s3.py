"""What only a store on S3 has: a cache of local copies, uploads that end half-way, endpoints that do not answer."""

import socket
import time

import pytest

from tests.support.toys import ShardsSpec, shards, store_at
from zscir.pipeline.stage import materialize, stage, stage_key
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.settings import Settings
from zscir.runtime.specs import Spec
from zscir.store.artifacts import MANIFEST, Facts
from zscir.store.store import open_store

SPEC = ShardsSpec(shards=3, blocks=1)
KEY = stage_key(shards, SPEC, {})


class NoSpec(Spec):
    pass


@pytest.fixture
def remote(s3, tmp_path):
    return store_at(s3, tmp_path / "cache")


def test_a_file_is_copied_once_and_then_read_from_the_cache(remote):
    artifact = materialize(remote, shards, SPEC, {}).artifact
    first = artifact.path("00000.bin")
    remote.fs.rm_file(remote.address("shards", KEY, "00000.bin"))
    assert artifact.path("00000.bin") == first
    assert first.read_bytes() == b"\0\0\0" * 1000


def test_files_of_an_artifact_lie_together_in_the_cache(remote):
    artifact = materialize(remote, shards, SPEC, {}).artifact
    assert len({artifact.path(name).parent for name in artifact.files()}) == 1


def test_bytes_that_do_not_match_the_manifest_are_never_handed_out(remote):
    artifact = materialize(remote, shards, SPEC, {}).artifact
    remote.fs.pipe_file(remote.address("shards", KEY, "00000.bin"), bytes(2999) + b"\1")
    with pytest.raises(StageError, match=r"00000\.bin: the bytes do not match"):
        artifact.path("00000.bin")
    assert [path for path in remote.local_copies.rglob("*") if path.is_file()] == []


def test_a_truncated_local_copy_is_fetched_again(remote):
    artifact = materialize(remote, shards, SPEC, {}).artifact
    artifact.path("00000.bin").write_bytes(b"")
    assert artifact.path("00000.bin").read_bytes() == b"\0\0\0" * 1000


def test_an_artifact_made_again_to_other_bytes_is_not_read_from_the_old_copy(remote):
    """As after a download that was made again: the same key, the same length, another content."""
    contents = [b"old", b"new"]

    @stage(version=1)
    def fetched(spec: NoSpec, out) -> Facts:
        (out / "a.bin").write_bytes(contents.pop(0))
        return {}

    old = materialize(remote, fetched, NoSpec(), {}).artifact
    assert old.path("a.bin").read_bytes() == b"old"
    remote.fs.rm_file(remote.address("fetched", old.key, "a.bin"))
    new = materialize(remote, fetched, NoSpec(), {}).artifact
    assert (new.key, new.path("a.bin").read_bytes()) == (old.key, b"new")


def test_an_upload_that_ends_half_way_is_no_artifact_and_is_completed_by_the_next_attempt(
    remote, monkeypatch, tmp_path
):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    real = remote.fs.put_file
    done = []

    def breaks(local, target, **words):
        if len(done) == 2:
            raise ConnectionResetError("the network went away")
        done.append(target)
        return real(local, target, **words)

    monkeypatch.setattr(remote.fs, "put_file", breaks)
    with pytest.raises(StageError, match="the network went away"):
        materialize(remote, shards, SPEC, {})
    assert len(remote.fs.find(remote.root)) == 2
    assert remote.lookup("shards", KEY).problem == "no artifact"
    monkeypatch.undo()
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    assert materialize(remote, shards, SPEC, {}).outcome == "made"
    assert remote.lookup("shards", KEY, verify=True).problem == ""
    assert (tmp_path / "log").read_text().count("begin") == 3


def test_a_damaged_artifact_that_is_made_again_is_closed_to_readers_meanwhile(remote, monkeypatch):
    materialize(remote, shards, SPEC, {})
    remote.fs.rm_file(remote.address("shards", KEY, "00001.bin"))
    observed = []
    real = remote.fs.put_file

    def watched(local, target, **words):
        observed.append(remote.fs.exists(remote.address("shards", KEY, MANIFEST)))
        return real(local, target, **words)

    monkeypatch.setattr(remote.fs, "put_file", watched)
    materialize(remote, shards, SPEC, {})
    assert observed == [False] * (5 + 3)  # three of the old files lie in the way first


def test_the_work_folder_of_a_store_on_s3_is_on_this_machine_and_empty_afterwards(remote, tmp_path):
    materialize(remote, shards, SPEC, {})
    assert remote.scratch.is_relative_to(tmp_path / "cache")
    assert [path for path in remote.scratch.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_slash_at_the_end_is_the_same_store(s3, tmp_path):
    one, two = store_at(s3, tmp_path), store_at(s3 + "/", tmp_path)
    assert (one.scratch, one.local_copies, one.root) == (two.scratch, two.local_copies, two.root)


def test_a_bucket_itself_is_a_store(s3, tmp_path):
    store = store_at(s3.removesuffix("/some/prefix"), tmp_path / "cache")
    store.check()
    made = materialize(store, shards, SPEC, {}).artifact
    assert store.list_keys() == [("shards", KEY)]
    assert made.path("00001.bin").read_bytes() == b"\0\1\0" * 1000


def test_a_missing_bucket_is_reported_with_what_to_check(s3, tmp_path):
    with pytest.raises(RequestError, match=r"store s3://no-such-bucket-here/x: .*; check --store"):
        store_at("s3://no-such-bucket-here/x", tmp_path).check()


def is_refused(uri, tmp_path):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RequestError, match="check --store / ZSCIR_STORE, the endpoint and the credentials"):
        store_at(uri, tmp_path).check()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.timeout(60)  # not the patience of a run, which is minutes
def test_an_endpoint_that_refuses_is_reported_within_seconds(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    is_refused(s3, tmp_path)


@pytest.mark.timeout(60)
def test_an_endpoint_that_never_answers_is_reported_when_the_time_is_over(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("zscir.store.store.CHECK_TIMEOUT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        is_refused(s3, tmp_path)


@pytest.mark.timeout(60)
def test_a_store_that_goes_away_in_the_middle_is_an_error_when_the_patience_is_over(remote, monkeypatch, tmp_path):
    import s3fs

    materialize(remote, shards, SPEC, {})
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    gone = open_store(Settings(remote.uri, tmp_path / "cache", store_retry_s=2))
    started = time.monotonic()
    with pytest.raises(StageError, match=f"store {remote.uri}: "):
        gone.lookup("shards", KEY)
    assert time.monotonic() - started >= 2
