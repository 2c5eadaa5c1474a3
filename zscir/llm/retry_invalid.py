"""Rounds: requests become exactly one final reply each; what is no answer is asked again with another seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from zscir.llm.answer import AnswerError, read_answer
from zscir.llm.backend_protocol import Backend, Reply, Request, failure, failure_kind
from zscir.runtime.errors import StageError

_ASK_AGAIN = frozenset({"invalid_answer", "truncated", "empty"})


def answer_all(backend: Backend, requests: Sequence[Request], resamples: int) -> list[Reply]:
    """The final reply of each request, in their order; up to ``resamples`` further rounds for unreadable answers.

    Attempts and tokens are counted over all rounds. An answer that stays unreadable keeps its text beside the error.
    """
    final: dict[str, Reply] = {}
    pending = list(requests)
    for attempt in range(resamples + 1):
        asked = [replace(request, attempt=attempt, seed=request.seed + attempt) for request in pending]
        for reply in _one_each(backend.answer(asked), asked):
            final[reply.request_id] = _added(final.get(reply.request_id), checked(reply))
        pending = [request for request in pending if _unreadable(final[request.request_id])]
        if not pending:
            break
    return [final[request.request_id] for request in requests]


def checked(reply: Reply) -> Reply:
    """``reply`` with the error "invalid_answer" where its text does not fit the schema."""
    if reply.error is None and reply.text is not None:
        try:
            read_answer(reply.text)
        except AnswerError as error:
            return replace(reply, error=failure("invalid_answer", str(error)))
    return reply


def _unreadable(reply: Reply) -> bool:
    return reply.error is not None and failure_kind(reply.error) in _ASK_AGAIN


def _one_each(replies: Iterable[Reply], requests: Sequence[Request]) -> list[Reply]:
    found = {reply.request_id: reply for reply in replies}
    if len(found) != len(requests) or any(request.request_id not in found for request in requests):
        raise StageError(f"the backend gave {len(found)} replies to {len(requests)} requests; each needs exactly one")
    return list(found.values())


def _added(before: Reply | None, reply: Reply) -> Reply:
    if before is None:
        return reply
    return replace(
        reply,
        attempts=before.attempts + reply.attempts,
        tokens_in=_sum(before.tokens_in, reply.tokens_in),
        tokens_out=_sum(before.tokens_out, reply.tokens_out),
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other
