import pytest
from s3fs import S3FileSystem

from tests.faults.faulty_proxy import FaultyProxy
from tests.support.services import s3_endpoint
from tests.support.toys import store_at
from zscir.store.conditional_writes import (
    ConditionsUnsupported,
    PreconditionFailed,
    create_object,
    etag_of,
    read_object,
    remove_object,
    supports_conditions,
    write_object,
)


@pytest.fixture
def fs(s3, tmp_path):
    return store_at(s3, tmp_path / "cache").fs


@pytest.fixture
def path(s3):
    return s3.removeprefix("s3://") + "/one.json"


def behind(monkeypatch, s3, tmp_path, proxy):
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    S3FileSystem.clear_instance_cache()
    return store_at(s3, tmp_path / "cache").fs


def test_only_the_first_of_two_new_ones_is_written(fs, path):
    etag = write_object(fs, path, b"first", None)
    with pytest.raises(PreconditionFailed):
        write_object(fs, path, b"second", None)
    assert (read_object(fs, path).text, read_object(fs, path).etag) == ("first", etag)


def test_only_what_was_seen_last_is_written_over(fs, path):
    old = write_object(fs, path, b"first", None)
    new = write_object(fs, path, b"second", old)
    with pytest.raises(PreconditionFailed):
        write_object(fs, path, b"third", old)
    assert (read_object(fs, path).text, etag_of(fs, path)) == ("second", new)


def test_what_is_gone_is_not_written_over(fs, path):
    etag = write_object(fs, path, b"first", None)
    fs.rm_file(path)
    with pytest.raises(PreconditionFailed):
        write_object(fs, path, b"second", etag)
    assert (read_object(fs, path), etag_of(fs, path)) == (None, None)


def test_only_what_was_seen_last_is_removed(fs, path):
    old = write_object(fs, path, b"first", None)
    new = write_object(fs, path, b"second", old)
    with pytest.raises(PreconditionFailed):
        remove_object(fs, path, old)
    assert read_object(fs, path).text == "second"
    remove_object(fs, path, new)
    assert read_object(fs, path) is None


@pytest.mark.parametrize("size", [10, 101 * 2**20], ids=["in one", "in parts"])
def test_a_file_is_put_where_nothing_is(fs, path, tmp_path, size):
    with (tmp_path / "file").open("wb") as stream:
        stream.truncate(size)
    create_object(fs, str(tmp_path / "file"), path)
    assert fs.size(path) == size
    (tmp_path / "file").write_bytes(b"x" * 20)
    with pytest.raises(PreconditionFailed):
        create_object(fs, str(tmp_path / "file"), path)
    assert fs.size(path) == size
    fs.rm_file(path)


def test_a_missing_bucket_is_an_error_and_no_refusal(fs):
    with pytest.raises(FileNotFoundError):
        read_object(fs, "no-such-bucket-here/one.json")
    with pytest.raises(FileNotFoundError):
        write_object(fs, "no-such-bucket-here/one.json", b"x", None)


def test_an_endpoint_that_keeps_to_conditions_is_known_without_a_trace(fs, path):
    etag = write_object(fs, path, b"mine", None)
    assert supports_conditions(fs, path, etag, b"mine")
    assert read_object(fs, path).etag == etag


def test_an_endpoint_that_ignores_conditions_is_known(s3, path, tmp_path, monkeypatch):
    with FaultyProxy(s3_endpoint(), conditions="ignored") as proxy:
        fs = behind(monkeypatch, s3, tmp_path, proxy)
        etag = write_object(fs, path, b"mine", None)
        assert not supports_conditions(fs, path, etag, b"mine")
        assert read_object(fs, path).text == "mine"


def test_an_endpoint_that_refuses_conditions_is_known(s3, path, tmp_path, monkeypatch):
    with FaultyProxy(s3_endpoint(), conditions="refused") as proxy:
        fs = behind(monkeypatch, s3, tmp_path, proxy)
        with pytest.raises(ConditionsUnsupported):
            write_object(fs, path, b"mine", None)
        fs.pipe_file(path, b"mine")
        assert not supports_conditions(fs, path, etag_of(fs, path), b"mine")
        remove_object(fs, path, etag_of(fs, path))
        assert read_object(fs, path) is None
