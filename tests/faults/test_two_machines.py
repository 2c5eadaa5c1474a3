"""Two machines that share only a store on S3: each key is made once, whoever dies, freezes or loses the store."""

import os
import signal
import threading
import time

import pytest
from s3fs import S3FileSystem

from tests.faults.faulty_proxy import KINDS, FaultyProxy
from tests.faults.processes import finish, kill_after, start
from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.toy_pipelines import digests, run_toy, write_toy
from tests.support.toys import log, pause, store_at
from zscir.pipeline.run import list_runs
from zscir.pipeline.stage import materialize, stage, stage_key
from zscir.runtime.errors import StageError
from zscir.runtime.settings import Settings
from zscir.runtime.specs import Spec
from zscir.store.artifacts import MANIFEST, Facts
from zscir.store.leases import LEASE_FOLDER
from zscir.store.store import open_store

FILES = [f"{number:05d}.bin" for number in range(4)]
LONG_S = 60.0
MOST_RUNS = 15  # by when each kind of fault has come up
AWAY_S = float(os.environ.get("ZSCIR_TEST_AWAY_S", "4"))  # `make faults` takes the store away for a minute


class SignedSpec(Spec):
    seed: int = 0


@stage(version=1)
def signed(spec: SignedSpec, out) -> Facts:
    """Files that bear the name of the machine that made them, as no real stage may: so a mixture would show."""
    who = os.environ["TOY_WHO"]
    for name in FILES:
        log(f"{who} begins {name}")
        (out / name).write_text(f"{who} made {name}")
        pause()
    return {}


KEY = stage_key(signed, SignedSpec(), {})


def make(uri, cache, environment, lease_s=LONG_S, patience_s=120.0, freeze_before=""):
    """What the process of one machine does; it writes to the log whether it made or reused."""
    os.environ.update(environment)
    if freeze_before:
        freeze_before_the_put_of(freeze_before)
    store = open_store(Settings(uri, cache, patience_s, lease_s))
    made = materialize(store, signed, SignedSpec(), {})
    log(f"{os.environ['TOY_WHO']} {made.outcome} {made.artifact.path(FILES[-1]).read_text()}")


def freeze_before_the_put_of(name):
    """Stop like a machine that is suspended, when the request is about to go out, and only once."""
    real = S3FileSystem._call_s3
    frozen = []

    async def freezing(fs, method, *args, **kwargs):
        if method == "put_object" and kwargs["Key"].endswith(name) and not frozen:
            frozen.append(name)
            log(f"freezes before {name}")
            os.kill(os.getpid(), signal.SIGSTOP)
        return await real(fs, method, *args, **kwargs)

    S3FileSystem._call_s3 = freezing


class TwoMachines:
    """Machines named A and B, each with a folder of its own, one store, and a log that lies outside of it."""

    def __init__(self, uri, tmp_path, endpoint):
        self.uri, self.tmp_path, self.endpoint = uri, tmp_path, endpoint
        self.store = store_at(uri, tmp_path / "cache-of-the-reader")

    def start(self, who, pause_s=0.0, cache=None, **words):
        environment = CREDENTIALS | {
            "AWS_ENDPOINT_URL": self.endpoint, "TOY_WHO": who, "TOY_PAUSE_S": str(pause_s),
            "TOY_LOG": str(self.tmp_path / "log"),
        }  # fmt: skip
        return start(make_with, self.uri, self.tmp_path / f"cache-{cache or who}", environment, words)

    def log(self):
        path = self.tmp_path / "log"
        return path.read_text().splitlines() if path.exists() else []

    def begun(self):
        """How many files were begun, on all machines together."""
        return sum(" begins " in line for line in self.log())

    def wait_for(self, line):
        deadline = time.monotonic() + 60
        while line not in self.log():
            assert time.monotonic() < deadline, f"{line!r} never came: {self.log()}"
            time.sleep(0.02)

    def check(self, who):
        """The artifact is whole, every file of it made by ``who``, and nothing is left behind."""
        found = self.store.lookup("signed", KEY, verify=True)
        assert found.problem == ""
        assert [found.artifact.path(name).read_text() for name in FILES] == [f"{who} made {name}" for name in FILES]
        assert self.store.fs.find(self.store.address(LEASE_FOLDER)) == []
        assert sorted(found.artifact.files()) == FILES


def make_with(uri, cache, environment, words):
    make(uri, cache, environment, **words)


@pytest.fixture
def machines(s3, tmp_path):
    return TwoMachines(s3, tmp_path, s3_endpoint())


def test_two_machines_that_want_the_same_at_once_make_it_once(machines, measured):
    processes = [machines.start(who, pause_s=0.1) for who in ("A", "B")]
    for process in processes:
        finish(process)
    lines = machines.log()
    first = lines[0].split()[0]
    other = "B" if first == "A" else "A"
    assert lines[:4] == [f"{first} begins {name}" for name in FILES]
    assert sorted(lines[4:]) == sorted(f"{who} {did} {first} made {FILES[-1]}"
                                       for who, did in ((first, "made"), (other, "reused")))  # fmt: skip
    machines.check(first)
    measured(
        "two runs started at once on two machines that share only an S3 store",
        f"2 machines: {machines.begun()} files begun for {len(FILES)}, none twice",
    )


def test_a_machine_that_is_gone_is_replaced_when_its_term_is_over(machines, measured):
    first = machines.start("A", pause_s=0.5, lease_s=1.5)
    machines.wait_for(f"A begins {FILES[1]}")
    second = machines.start("B")
    assert kill_after(first, 0.2)
    gone = time.monotonic()
    machines.wait_for(f"B begins {FILES[0]}")
    followed_s = time.monotonic() - gone
    assert followed_s < 15
    finish(second)
    machines.check("B")
    measured(
        "a run whose machine is gone",
        f"with a lease of 1.5 s another machine took over {followed_s:.1f} s after the death, "
        f"files begun again: {machines.begun() - len(FILES)} of {len(FILES)}",
    )


def test_a_process_that_was_killed_is_replaced_by_another_of_its_machine_at_once(machines):
    first = machines.start("A", pause_s=0.5, lease_s=1000.0)
    machines.wait_for(f"A begins {FILES[1]}")
    assert kill_after(first, 0)
    finish(machines.start("B", cache="A"))
    machines.check("B")


@pytest.mark.parametrize("name", [FILES[0], FILES[2], MANIFEST])
def test_a_machine_that_slept_through_its_term_in_the_middle_of_its_commit_spoils_nothing(machines, name):
    first = machines.start("A", lease_s=1.0, freeze_before=name)
    machines.wait_for(f"freezes before {name}")
    finish(machines.start("B"))
    manifest = machines.store.read_text("signed", KEY, MANIFEST)
    os.kill(first.pid, signal.SIGCONT)
    finish(first)
    machines.check("B")
    assert machines.store.read_text("signed", KEY, MANIFEST) == manifest
    assert machines.log()[-1] == f"A reused B made {FILES[-1]}"


def test_a_machine_that_slept_just_before_its_manifest_gives_way_to_the_one_that_is_at_work_now(machines):
    first = machines.start("A", lease_s=1.0, freeze_before=MANIFEST)
    machines.wait_for(f"freezes before {MANIFEST}")
    second = machines.start("B", pause_s=0.5)
    machines.wait_for(f"B begins {FILES[0]}")
    os.kill(first.pid, signal.SIGCONT)
    finish(first)
    finish(second)
    machines.check("B")
    assert f"A reused B made {FILES[-1]}" in machines.log()


def test_a_machine_that_slept_while_it_made_something_finds_it_made_and_takes_that(machines, measured):
    first = machines.start("A", pause_s=0.3, lease_s=1.0)
    machines.wait_for(f"A begins {FILES[1]}")
    os.kill(first.pid, signal.SIGSTOP)
    second = machines.start("B", pause_s=0.6)
    machines.wait_for(f"B begins {FILES[0]}")
    os.kill(first.pid, signal.SIGCONT)  # both at work now: A finishes its files, may not commit, waits for B
    finish(first)
    finish(second)
    machines.check("B")
    assert f"A reused B made {FILES[-1]}" in machines.log()
    assert list((machines.tmp_path / "cache-A" / "scratch").rglob("*.bin")) == []
    assert machines.begun() == 2 * len(FILES)
    measured(
        "a machine that slept through its lease while it made something",
        f"{machines.begun()} files begun for {len(FILES)}: that key was made twice, committed once",
    )


def test_runs_in_which_one_request_in_twenty_fails_end_with_the_same_digests(s3, tmp_path, monkeypatch, measured):
    path, undisturbed = write_toy(tmp_path / "specs"), store_at(tmp_path / "undisturbed", tmp_path / "cache")
    runs = begun = 0
    with FaultyProxy(s3_endpoint(), share=0.05, seed=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        S3FileSystem.clear_instance_cache()
        while runs < MOST_RUNS and not all(proxy.faults[kind] for kind in KINDS):
            change = f"short.max_text_chars={40 - runs}"
            run = run_toy(store_at(s3, tmp_path / "cache"), path, change)
            assert digests(run.artifacts) == digests(run_toy(undisturbed, path, change).artifacts)
            begun += sum(row["outcome"] == "made" for row in run.recorder.steps())
            runs += 1
        assert all(proxy.faults[kind] for kind in KINDS), proxy.faults
        failed, total = proxy.faults.total(), proxy.requests.total()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint())
    S3FileSystem.clear_instance_cache()
    calm = store_at(s3, tmp_path / "calm")
    assert [row["status"] for row in list_runs(calm)] == ["succeeded"] * runs
    assert all(calm.lookup(stage, key, verify=True).problem == "" for stage, key in calm.list_keys())
    assert calm.fs.find(calm.address(LEASE_FOLDER)) == []
    assert begun == len(calm.list_keys())
    measured(
        "5 % of the requests to S3 fail",
        f"{failed} of {total} requests failed: 0 of {begun} artifacts lost, each made once",
    )


def test_a_store_that_is_away_for_a_while_is_waited_for(s3, tmp_path, measured):
    with FaultyProxy(s3_endpoint()) as proxy:
        machines = TwoMachines(s3, tmp_path, proxy.url)
        process = machines.start("A", pause_s=0.5, lease_s=2.0)  # its lease runs out meanwhile; nobody can take it
        machines.wait_for(f"A begins {FILES[1]}")
        with proxy.away():
            left_at = time.monotonic()
            machines.wait_for(f"A begins {FILES[3]}")
            time.sleep(AWAY_S)
            assert process.is_alive()
        back_at = time.monotonic()
        finish(process)
        went_on_s = time.monotonic() - back_at
    assert machines.log()[-1] == f"A made A made {FILES[-1]}"
    machines.check("A")
    assert machines.begun() == len(FILES)
    measured(
        "the store is away for a while (S3)",
        f"away for {back_at - left_at:.0f} s: it was committed {went_on_s:.1f} s after the store was back, "
        f"{machines.begun()} files begun for {len(FILES)}, none twice",
    )


def test_a_store_that_stays_away_is_reported_when_the_retries_end_and_the_work_is_kept(
    s3, tmp_path, monkeypatch, measured
):
    with FaultyProxy(s3_endpoint()) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("TOY_WHO", "A")
        S3FileSystem.clear_instance_cache()
        store = open_store(Settings(s3, tmp_path / "cache", store_retry_s=1.0))
        gone, left_at = threading.Event(), []

        @stage(version=1)
        def signed_away(spec: SignedSpec, out) -> Facts:
            (out / "kept.bin").write_text("kept")
            if not gone.is_set():
                gone.set()
                proxy.close()
                left_at.append(time.monotonic())
            return {}

        with pytest.raises(StageError, match=f"store {s3}"):
            materialize(store, signed_away, SignedSpec(), {})
        reported_s = time.monotonic() - left_at[0]
        assert [path.name for path in store.scratch.rglob("*.bin")] == ["kept.bin"]
        proxy.open()
        assert materialize(store, signed_away, SignedSpec(), {}).outcome == "made"
    measured(
        "the store stays away",
        f"with 1 s of retries it was reported after {reported_s:.1f} s; 1 of 1 files was kept in the work folder",
    )
