"""Chunks under a run's limits: memory that runs out beside others, time that is over, and the record of both."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.support.toy_pipelines import load_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.budget import Budget
from zscir.pipeline.chunk_runner import recording_mapper
from zscir.pipeline.limits import Limits
from zscir.pipeline.run import Run, begin_run, end_run
from zscir.pipeline.stage import Chunk, ChunkResult, ChunkRounds, materialize, run_chunk, stage
from zscir.runtime.errors import OverBudget, StageError
from zscir.runtime.retries import RetryPolicy
from zscir.runtime.settings import Prices
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts
from zscir.store.store import Store

TOGETHER: list[Barrier] = []  # while it holds one, chunks work side by side


class WordSpec(Spec):
    word: str


class WordsSpec(Spec):
    words: tuple[str, ...] = ("a", "b", "c")


@stage(version=1)
def write_word(spec: WordSpec, out: Path) -> Facts:
    if TOGETHER:
        TOGETHER[0].wait(10)
        if spec.word == "b":
            raise MemoryError("no room beside the others")
    (out / "word.txt").write_text(spec.word)
    return {}


def split(spec: WordsSpec) -> ChunkRounds:
    return (yield [Chunk(word, write_word, WordSpec(word=word), {}) for word in spec.words])


@stage(version=1, split=split)
def write_words(spec: WordsSpec, chunks: list[Artifact], out: Path) -> Facts:
    (out / "all.txt").write_text(" ".join(chunk.path("word.txt").read_text() for chunk in chunks))
    return {}


def side_by_side(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
    if len(chunks) > 1:
        TOGETHER[:] = [Barrier(len(chunks))]
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(lambda chunk: run_chunk(store, chunk), chunks)
    TOGETHER.clear()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    store = store_at(tmp_path / "store", tmp_path / "cache")
    run = begin_run(store, load_toy(tmp_path / "specs"), [], {})
    yield run
    end_run(run, "failed")


def recorded(run: Run) -> dict[str, tuple[str, int]]:
    with run.recorder.step("words", "write_words"):
        pass  # the end of a step writes every row
    return {
        row["piece"]: (row["outcome"], row["attempts"]) for row in query_store_rows(run.store, "SELECT * FROM pieces")
    }


def test_a_chunk_that_ran_out_of_memory_beside_others_is_made_again_by_itself(run: Run) -> None:
    mapper = recording_mapper(run.recorder, run.budget, "words", side_by_side, RetryPolicy(0, 0.0))
    made = materialize(run.store, write_words, WordsSpec(), {}, mapper).artifact
    assert made.path("all.txt").read_text() == "a b c"
    assert recorded(run) == {"a": ("made", 1), "b": ("made", 2), "c": ("made", 1)}


def test_no_chunk_is_begun_when_the_money_is_spent_and_what_was_made_is_kept(run: Run) -> None:
    budget = Budget(Limits(max_hours=1e-9), Prices())
    done = run_chunk(run.store, Chunk("a", write_word, WordSpec(word="a"), {}))
    policy = RetryPolicy(until=budget.deadline())
    mapper = recording_mapper(run.recorder, budget, "words", side_by_side, policy)
    with pytest.raises(OverBudget, match="limit of 1e-09 hours"):
        materialize(run.store, write_words, WordsSpec(), {}, mapper)
    assert recorded(run) == {}
    assert run.store.list_keys("write_word") == [("write_word", str(done.key))]


def test_no_chunk_is_begun_when_its_step_is_over_its_limit(run: Run) -> None:
    mapper = recording_mapper(run.recorder, run.budget, "words", side_by_side, RetryPolicy(until=0.0))
    with pytest.raises(StageError, match="3 of 3 chunks were not begun: the step's time was over"):
        materialize(run.store, write_words, WordsSpec(), {}, mapper)
