"""kill -9 while a stage works: nothing half-made is ever read, and the next attempt goes on where this one stopped."""

import random
import time

import pytest

from tests.faults.processes import finish, kill_after, start, watched
from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.toys import ShardsSpec, make_shards, shards, store_at
from zscir.pipeline.stage import materialize, stage_key

pytestmark = pytest.mark.slow

KILLED = "kill -9 of a run, at random moments"
AT_ONCE = "two runs of one pipeline started at once, on one machine"
SPEC = ShardsSpec(shards=6, blocks=4)
KEY = stage_key(shards, SPEC, {})
PAUSE_S = 0.01


def undisturbed(tmp_path):
    """The artifact of a run that nobody killed, in a store of its own, with its manifest's text."""
    store = store_at(tmp_path / "undisturbed", tmp_path / "cache")
    artifact = materialize(store, shards, SPEC, {}).artifact
    return artifact, store.read_text("shards", KEY, "manifest.json")


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def check_log(lines, kills):
    """Each kill costs at most one shard, and none that was finished; returns how many were begun again."""
    for number in range(SPEC.shards):
        mine = [line.split()[0] for line in lines if line.endswith(f" {number:05d}.bin")]
        assert mine.count("made") <= 1
        assert "made" not in mine or mine[-1] == "made"
    begun = sum(line.startswith("begin") for line in lines)
    assert SPEC.shards <= begun <= SPEC.shards + kills
    return begun - SPEC.shards


def kill_and_rerun(seed, uri, tmp_path, environment, expected, most_kills):
    """Kill this seed's attempts at random moments, then let one end.

    Returns (kills, shards begun again, times the reader looked).
    """
    rng = random.Random(seed)
    artifact, manifest = expected
    log = tmp_path / f"log-{seed}"
    environment = environment | {"TOY_LOG": str(log), "TOY_PAUSE_S": str(PAUSE_S)}
    store = store_at(uri, tmp_path / f"cache-{seed}")
    work = (make_shards, uri, tmp_path / f"cache-{seed}", environment, SPEC)
    kills = 0
    with watched(store, "shards", KEY, artifact.digest) as counts:
        for _ in range(rng.randint(1, most_kills)):
            kills += kill_after(start(*work), rng.uniform(0, 1.3 * PAUSE_S * SPEC.shards * SPEC.blocks))
            assert store.lookup("shards", KEY).problem in ("", "no artifact")
        finish(start(*work))
    assert store.lookup("shards", KEY, verify=True).problem == ""
    assert store.read_text("shards", KEY, "manifest.json") == manifest
    return kills, check_log(lines_of(log), kills), counts["looks"]


def kill_many(uri, tmp_path, environment, wanted_kills):
    """Go on with the next seed until there were enough kills; says what they cost, and how often the reader looked."""
    expected = undisturbed(tmp_path)
    kills = again = looks = 0
    for seed in range(4 * wanted_kills):
        killed, twice, looked = kill_and_rerun(seed, f"{uri}/{seed}", tmp_path, environment, expected, 4)
        kills, again, looks = kills + killed, again + twice, looks + looked
        if kills >= wanted_kills:
            return f"{kills} kills: 0 of {seed + 1} artifacts lost, shards begun again: {again}", looks
    raise AssertionError(f"only {kills} of {wanted_kills} attempts were still at work when they were killed")


def test_killed_stages_resume_and_end_with_the_same_bytes(tmp_path, measured):
    cost, looks = kill_many(f"{tmp_path}/store", tmp_path, {}, 40)
    assert looks >= 200
    measured(KILLED, f"a stage on a folder, {cost}, half-made artifacts seen in {looks} looks: 0")


def test_killed_stages_of_a_store_on_s3_end_with_the_same_bytes(tmp_path, s3, measured):
    cost, _ = kill_many(s3, tmp_path, {"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS, 6)
    measured(KILLED, f"a stage on S3, {cost}")


def test_two_processes_that_want_the_same_make_it_once(tmp_path, measured):
    log = tmp_path / "log"
    environment = {"TOY_LOG": str(log), "TOY_PAUSE_S": "0.02"}
    work = (make_shards, str(tmp_path / "store"), tmp_path / "cache", environment, SPEC)
    processes = [start(*work) for _ in range(3)]
    for process in processes:
        finish(process)
    assert sum(line.startswith("begin") for line in lines_of(log)) == SPEC.shards
    assert sum(line.startswith("made") for line in lines_of(log)) == SPEC.shards
    measured(AT_ONCE, f"{len(processes)} processes: {SPEC.shards} shards begun for {SPEC.shards}, none twice")


def test_who_waits_for_a_process_that_is_killed_continues_with_its_shards(tmp_path, measured):
    log = tmp_path / "log"
    environment = {"TOY_LOG": str(log), "TOY_PAUSE_S": "0.05"}
    work = (make_shards, str(tmp_path / "store"), tmp_path / "cache", environment, SPEC)
    first = start(*work)
    deadline = time.monotonic() + 60
    while "made 00001.bin" not in lines_of(log) and time.monotonic() < deadline:
        time.sleep(0.01)
    second = start(*work)
    assert kill_after(first, 0.3)
    finish(second)
    again = check_log(lines_of(log), 1)
    measured(AT_ONCE, f"the first killed: the second went on with its shards, begun again: {again}")


@pytest.mark.parametrize("name", ["00002.bin.part", ".00002.bin.tmp", "manifest.json"])
def test_what_a_killed_attempt_left_half_written_is_not_in_the_artifact(tmp_path, name):
    expected, _ = undisturbed(tmp_path)
    store = store_at(tmp_path / "store", tmp_path / "cache")
    folder = store.scratch / "shards" / KEY
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"half")
    assert materialize(store, shards, SPEC, {}).artifact.digest == expected.digest
