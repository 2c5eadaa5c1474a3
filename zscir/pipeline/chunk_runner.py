"""Piecework: the pieces of a step become rows of the run's record, made on its terms and within its budget."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from zscir.lineage.recorder import Recorder
from zscir.pipeline.budget import Budget
from zscir.pipeline.stage import SKIPPED, Chunk, ChunkMapper, ChunkResult
from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_info, track
from zscir.runtime.retries import RetryPolicy
from zscir.store.store import Store

UNRECORDED_FIELDS = ("name", "out_of_memory")


def recording_mapper(
    recorder: Recorder, budget: Budget, step: str, mapper: ChunkMapper, terms: RetryPolicy
) -> ChunkMapper:
    """``mapper`` on ``terms``, with a row in the record for each piece; OverBudget when the run's limits stop it."""
    return retrying_mapper(step, mapper, terms, partial(_record_chunk, recorder, step), partial(budget.check, step))


def retrying_mapper(
    step: str, mapper: ChunkMapper, terms: RetryPolicy, record: Callable[[ChunkResult], None], check: Callable[[], None]
) -> ChunkMapper:
    """``mapper``, where ``record`` is told of each piece that ended, and whoever watches of its progress.

    Pieces that ran out of memory beside others are made again, one at a time. Once ``terms.until`` is past no piece is
    begun; those under way end, then ``check`` may raise that it was the run's limit, else a StageError is raised.
    """

    def mapped(store: Store, pieces: Sequence[Chunk]) -> Iterator[ChunkResult]:
        asked = {piece.name: replace(piece, terms=terms) for piece in pieces}
        alone, skipped = [], 0
        for done in track(mapper(store, list(asked.values())), len(pieces), f"{step} ({pieces[0].stage.name})"):
            if done.outcome == SKIPPED:
                skipped += 1
                continue
            record(done)
            if done.out_of_memory:
                alone.append(done)
            else:
                yield done
        for first in alone:
            log_info(f"{step}: piece {first.name} ran out of memory beside others; it is made again by itself")
            done = _retry_alone(store, asked[first.name], mapper, first)
            record(done)
            yield done
        if skipped:
            check()
            raise StageError(f"{skipped} of {len(pieces)} pieces were not begun: the step's time was over")

    return mapped


def log_failed_chunk(step: str, done: ChunkResult) -> None:
    """A line about a piece that failed."""
    if done.error is not None:
        log_info(f"{step}: piece {done.name} failed: {done.error}")


def _retry_alone(store: Store, piece: Chunk, mapper: ChunkMapper, first: ChunkResult) -> ChunkResult:
    [done] = mapper(store, [piece])
    if done.outcome == SKIPPED:
        return first
    if done.out_of_memory:
        words = f"{done.error}; it had the worker's memory to itself (but for what else runs on that machine)"
        done = replace(done, error=words)
    return replace(done, attempts=first.attempts + done.attempts)


def _record_chunk(recorder: Recorder, step: str, done: ChunkResult) -> None:
    row = {name: value for name, value in vars(done).items() if name not in UNRECORDED_FIELDS}
    recorder.add_piece(step, {"piece": done.name} | row)
    log_failed_chunk(step, done)
