"""Errors that pass are tried again, others are not; memory that ran out is told apart."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toy_pipelines import STEPS, direct, run_toy, write_toy
from tests.support.toys import store_at
from zscir.pipeline.chunk_job import chunk_result_of
from zscir.pipeline.run import Run
from zscir.pipeline.stage import Chunk, run_chunk, stage
from zscir.runtime.errors import GateError, RequestError, StageError, TransientError
from zscir.runtime.retries import RetryPolicy, is_out_of_memory, oom_advice, with_retries
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Facts
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store

SHAKY: list[Exception] = []  # what the toy stage raises, in turn, before it works
LIMITS = "[limits]\nbackoff_s = 0\n"


class OutOfMemoryError(RuntimeError):
    """Named as torch.cuda's."""


class WordSpec(Spec):
    word: str = "a"


@stage(version=1)
def shaky(spec: WordSpec, out: Path) -> Facts:
    if SHAKY:
        raise SHAKY.pop(0)
    (out / "word.txt").write_text(spec.word)
    return {"rows": 1}


@pytest.fixture(autouse=True)
def steady() -> Iterator[None]:
    SHAKY.clear()
    yield
    SHAKY.clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store", tmp_path / "cache")


def failing(errors: list[Exception]) -> Callable[[], str]:
    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    return call


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_passing_error_is_tried_again_as_often_as_the_terms_say(failures: int, retries: int) -> None:
    numbers: list[int] = []
    errors: list[Exception] = [TransientError("away")] * failures
    if failures <= retries:
        assert with_retries(failing(errors), RetryPolicy(retries, 0.0), numbers.append, "x") == "done"
    else:
        with pytest.raises(TransientError, match="away"):
            with_retries(failing(errors), RetryPolicy(retries, 0.0), numbers.append, "x")
    assert numbers == list(range(1, min(failures, retries) + 2))


@pytest.mark.parametrize("error", [StageError("no"), RequestError("no"), GateError("no"), ValueError("no")])
def test_a_permanent_error_is_never_tried_again(error: Exception) -> None:
    numbers: list[int] = []
    with pytest.raises(type(error)):
        with_retries(failing([error]), RetryPolicy(5, 0.0), numbers.append, "x")
    assert numbers == [1]


def test_pauses_grow_and_are_not_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    for _ in range(2):
        with_retries(failing([TransientError("away")] * 4), RetryPolicy(4, 2.0), lambda number: None, "x")
    for first, least in zip(pauses[:4], (2, 4, 8, 16), strict=True):
        assert least <= first <= least + 2
    assert pauses[:4] != pauses[4:]


def test_a_store_that_is_away_is_a_passing_error_and_a_full_disk_is_none() -> None:
    for error, passes in ((ConnectionError("gone"), True), (TimeoutError("late"), True), (OSError(28, "full"), False)):
        with pytest.raises(StageError) as translated, translate_storage_errors("s3://x"):
            raise error
        assert isinstance(translated.value, TransientError) == passes


def test_a_chunk_is_tried_again_and_its_result_counts_the_attempts(store: Store) -> None:
    shaky_chunk = Chunk("x", shaky, WordSpec(), {}, RetryPolicy(2, 0.0))
    SHAKY[:] = [TransientError("away")] * 2
    done = run_chunk(store, shaky_chunk)
    assert (done.outcome, done.attempts) == ("made", 3)
    SHAKY[:] = [ValueError("wrong")]
    done = run_chunk(store, Chunk("y", shaky, WordSpec(word="b"), {}, RetryPolicy(2, 0.0)))
    assert (done.outcome, done.attempts, done.error) == ("failed", 1, "ValueError: wrong")


def test_a_chunk_is_not_begun_when_its_time_is_over(store: Store) -> None:
    done = run_chunk(store, Chunk("x", shaky, WordSpec(), {}, RetryPolicy(until=0.0)))
    assert (done.outcome, done.key, done.attempts) == ("skipped", None, 0)


def test_memory_that_ran_out_is_known_by_name_and_through_its_cause() -> None:
    translated = StageError("no")
    translated.__cause__ = OutOfMemoryError("CUDA out of memory")
    assert [is_out_of_memory(one) for one in (MemoryError(), translated, StageError("x"), "MemoryError")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert chunk_result_of(Chunk("x", shaky, WordSpec(), {}), MemoryError("killed")).out_of_memory


def test_what_to_lower_names_the_sizes_of_the_spec_at_any_depth() -> None:
    translated = oom_advice("embed", {"batch_size": 256, "model": {"batch_size": 1, "name": "x"}})
    assert "--set embed.batch_size=128 (now 256), --set embed.model.batch_size=1 (now 1)" in translated
    assert "--set" not in oom_advice("pack", {"name": "x"})


def shaken(error: Exception, name: str) -> Callable[[Run, list[str]], None]:
    """An engine under which the stage of step ``name`` is one that raises ``error`` once before it works."""

    def engine(run: Run, chosen: list[str]) -> None:
        steps = list(run.pipeline.steps)
        [place] = [number for number, step in enumerate(steps) if step.name == name]
        work, left = steps[place].stage.function, [error]

        def once(*args: object, **kwargs: object) -> Facts:
            if left:
                raise left.pop()
            return work(*args, **kwargs)

        steps[place] = replace(steps[place], stage=replace(steps[place].stage, function=once))
        run.pipeline = replace(run.pipeline, steps=tuple(steps))
        direct(run, chosen)

    return engine


def test_a_step_is_tried_again_and_the_record_says_how_often(store: Store, tmp_path: Path) -> None:
    path = write_toy(tmp_path / "specs", STEPS.replace("[[steps]]", LIMITS + "[[steps]]", 1))
    run = run_toy(store, path, engine=shaken(TransientError("away"), "tabletop"))
    assert {row["step"]: row["attempts"] for row in run.recorder.steps()} == {"tabletop": 2, "short": 1, "ingest": 1}


def test_a_step_without_retries_fails_at_once(store: Store, tmp_path: Path) -> None:
    path = write_toy(tmp_path / "specs", STEPS.replace("[[steps]]", LIMITS + "[[steps]]", 1))
    with pytest.raises(StageError, match=r"step 'tabletop' \(stage tabletop\): away"):
        run_toy(store, path, "limits.retries=0", engine=shaken(TransientError("away"), "tabletop"))


def test_a_step_that_ran_out_of_memory_says_what_to_do(store: Store, tmp_path: Path) -> None:
    path = write_toy(tmp_path / "specs")
    with pytest.raises(StageError, match="OutOfMemoryError: GPU; out of memory; give it a larger machine"):
        run_toy(store, path, engine=shaken(OutOfMemoryError("GPU"), "tabletop"))
