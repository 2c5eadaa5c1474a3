"""Empty stores, in a folder and on S3."""

import itertools

import pytest

from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.toys import store_at

NUMBERS = itertools.count()


@pytest.fixture
def s3(monkeypatch):
    """The address of an empty bucket with a prefix, on a server that this process's environment points to."""
    import boto3
    import s3fs

    for name, value in ({"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{next(NUMBERS)}"
    boto3.client("s3", endpoint_url=s3_endpoint(), region_name="us-east-1").create_bucket(Bucket=bucket)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"s3://{bucket}/some/prefix"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    """An empty store, once in a folder and once on S3."""
    uri = request.getfixturevalue("s3") if request.param == "s3" else tmp_path / "store"
    return store_at(uri, tmp_path / "cache")
