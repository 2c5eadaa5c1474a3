"""Run the chunks of a step under its retry policy and record each; one that ran out of memory is made again alone."""

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

# The name goes into the column ``piece``; ``out_of_memory`` only decides whether a chunk is made again.
UNRECORDED_FIELDS = ("name", "out_of_memory")


def recording_mapper(
    recorder: Recorder, budget: Budget, step: str, mapper: ChunkMapper, policy: RetryPolicy
) -> ChunkMapper:
    """``mapper`` under ``policy``, with a row in the record for each chunk; OverBudget at the run's limits."""
    return retrying_mapper(step, mapper, policy, partial(_record_chunk, recorder, step), partial(budget.check, step))


def retrying_mapper(
    step: str,
    mapper: ChunkMapper,
    policy: RetryPolicy,
    on_result: Callable[[ChunkResult], None],
    check_budget: Callable[[], None],
) -> ChunkMapper:
    """``mapper``, with ``on_result`` called for each chunk that ended, and a progress bar or log lines.

    Chunks that ran out of memory beside others are made again, one at a time. Once ``policy.until`` is past no chunk is
    begun; those under way end, then ``check_budget`` may raise that it was the run's limit, else StageError is raised.
    """

    def mapped(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
        # A stage that is split knows no limits: its chunks get the policy of their step here.
        by_name = {chunk.name: replace(chunk, retry_policy=policy) for chunk in chunks}
        to_retry, skipped = [], 0
        label = f"{step} ({chunks[0].stage.name})"
        for result in track(mapper(store, list(by_name.values())), len(chunks), label):
            if result.outcome == SKIPPED:
                skipped += 1
                continue
            on_result(result)
            if result.out_of_memory:
                to_retry.append(result)
            else:
                yield result
        # One at a time and last: by then none of the others, which took the memory, is under way.
        for first in to_retry:
            log_info(f"{step}: chunk {first.name} ran out of memory beside others; it is made again by itself")
            result = _retry_alone(store, by_name[first.name], mapper, first)
            on_result(result)
            yield result
        if skipped:
            # The budget first: "over budget" names the option to raise, and is a status of its own in the record.
            check_budget()
            raise StageError(f"{skipped} of {len(chunks)} chunks were not begun: the step's time was over")

    return mapped


def log_failed_chunk(step: str, result: ChunkResult) -> None:
    """Log a chunk that failed."""
    if result.error is not None:
        log_info(f"{step}: chunk {result.name} failed: {result.error}")


def _retry_alone(store: Store, chunk: Chunk, mapper: ChunkMapper, first: ChunkResult) -> ChunkResult:
    [result] = mapper(store, [chunk])
    if result.outcome == SKIPPED:
        # The time was over before the second attempt: what the first one said is still the reason.
        return first
    if result.out_of_memory:
        error = f"{result.error}; it had the worker's memory to itself (but for what else runs on that machine)"
        result = replace(result, error=error)
    return replace(result, attempts=first.attempts + result.attempts)


def _record_chunk(recorder: Recorder, step: str, result: ChunkResult) -> None:
    row = {name: value for name, value in vars(result).items() if name not in UNRECORDED_FIELDS}
    recorder.add_chunk(step, {"piece": result.name} | row)
    log_failed_chunk(step, result)
