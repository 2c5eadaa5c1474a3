"""kill -9 at every single step of a commit, one after the other, not only where chance takes it."""

import itertools
import signal

import pytest

from tests.faults.processes import dying_at, finish, start, watched
from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.toys import ShardsSpec, make_shards, shards, store_at
from zscir.pipeline.stage import materialize, stage_key

pytestmark = pytest.mark.slow

FAULT = "kill -9 at each single step of a commit, local and S3"
SPEC = ShardsSpec(shards=2, blocks=1)
KEY = stage_key(shards, SPEC, {})
# Every call that changes what a folder or a disk holds, on the way from the first shard to the artifact's last name.
STEPS = ["os.fsync", "os.replace", "os.rename", "os.unlink", "os.rmdir", "os.mkdir"]


def expected_digest(tmp_path):
    store = store_at(tmp_path / "undisturbed", tmp_path / "cache")
    return materialize(store, shards, SPEC, {}).artifact.digest


def death_at(number, steps, uri, tmp_path, environment, digest):
    """Die before the ``number``-th step, look, and run again; how many shards were then begun again.

    None when there were fewer steps than that.
    """
    store = store_at(uri, tmp_path / f"cache-{number}")
    log = tmp_path / f"log-{number}"
    work = (make_shards, uri, tmp_path / f"cache-{number}", environment | {"TOY_LOG": str(log)}, SPEC)
    with watched(store, "shards", KEY, digest):
        process = start(dying_at, number, steps, *work)
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        finish(start(*work))
    assert store.lookup("shards", KEY, verify=True).problem == ""
    lines = log.read_text().splitlines() if log.exists() else []
    assert sum(line.startswith("made") for line in lines) <= SPEC.shards
    begun = sum(line.startswith("begin") for line in lines)
    assert begun <= SPEC.shards + 1
    return max(0, begun - SPEC.shards) if process.exitcode != 0 else None


def cost(again):
    return f"{len(again)} deaths, one at each step: 0 half-made artifacts seen, shards begun again: {sum(again)}"


def deaths(numbers, at):
    """What death at each number costs, until there are no more steps."""
    return list(itertools.takewhile(lambda again: again is not None, map(at, numbers)))


def test_death_at_any_step_of_making_and_committing_leaves_nothing_half_made(tmp_path, measured):
    digest = expected_digest(tmp_path)

    def at(number):
        return death_at(number, STEPS, f"{tmp_path}/store-{number}", tmp_path, {}, digest)

    again = deaths(itertools.count(1), at)
    assert len(again) >= 15
    measured(FAULT, f"making, on a folder, {cost(again)}")


def test_death_at_any_step_of_replacing_a_damaged_artifact_leaves_nothing_half_made(tmp_path, measured):
    digest = expected_digest(tmp_path)

    def at(number):
        uri = f"{tmp_path}/store-{number}"
        damaged = materialize(store_at(uri, tmp_path / "cache"), shards, SPEC, {}).artifact
        damaged.path("00000.bin").unlink()
        return death_at(number, STEPS, uri, tmp_path, {}, digest)

    again = deaths(itertools.count(1), at)
    assert len(again) >= 20
    measured(FAULT, f"replacing what is damaged, on a folder, {cost(again)}")


@pytest.mark.parametrize("damaged", [False, True])
def test_death_at_any_change_of_a_bucket_leaves_nothing_half_made(tmp_path, s3, damaged, measured):
    digest = expected_digest(tmp_path)
    environment = {"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS

    def at(number):
        uri = f"{s3}/{number}"
        if damaged:
            store = store_at(uri, tmp_path / "cache")
            materialize(store, shards, SPEC, {})
            store.fs.rm_file(store.address("shards", KEY, "00000.bin"))
        return death_at(number, ["s3.put_object", "s3.delete_object", "s3.delete_objects"], uri, tmp_path, environment,
                        digest)  # fmt: skip

    # When it replaces, the first three steps are the same: they get the lease.
    again = deaths(itertools.count(4 if damaged else 1), at)
    assert len(again) == (10 if damaged else 8)  # four files; the rest are the lease, and what lies in the way
    measured(FAULT, f"{'replacing what is damaged' if damaged else 'making'}, on S3, {cost(again)}")
