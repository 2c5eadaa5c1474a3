"""Resample unreadable answers: each request gets one final reply, after up to N further rounds with other seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from zscir.llm.answer import AnswerError, read_answer
from zscir.llm.backend_protocol import Backend, LlmReply, LlmRequest, error_kind, error_text
from zscir.runtime.errors import StageError

# Errors of sampling, which another seed may avoid. Refusals and content filters are final, and backends retry outages.
_RETRIED_KINDS = frozenset({"invalid_answer", "truncated", "empty"})


def answer_all(backend: Backend, requests: Sequence[LlmRequest], resamples: int) -> list[LlmReply]:
    """The final reply of each request, in their order; up to ``resamples`` further rounds for unreadable answers.

    Attempts and tokens are counted over all rounds. An answer that stays unreadable keeps its text beside the error.
    """
    final: dict[str, LlmReply] = {}
    pending = list(requests)
    for attempt in range(resamples + 1):
        sent = [replace(request, attempt=attempt, seed=request.seed + attempt) for request in pending]
        for reply in _in_request_order(backend.answer(sent), sent):
            final[reply.request_id] = _add_usage(final.get(reply.request_id), check_reply(reply))
        pending = [request for request in pending if _unreadable(final[request.request_id])]
        if not pending:
            break
    return [final[request.request_id] for request in requests]


def check_reply(reply: LlmReply) -> LlmReply:
    """``reply`` with the error "invalid_answer" where its text does not fit the schema."""
    if reply.error is None and reply.text is not None:
        try:
            read_answer(reply.text)
        except AnswerError as error:
            return replace(reply, error=error_text("invalid_answer", str(error)))
    return reply


def _unreadable(reply: LlmReply) -> bool:
    return reply.error is not None and error_kind(reply.error) in _RETRIED_KINDS


def _in_request_order(replies: Iterable[LlmReply], requests: Sequence[LlmRequest]) -> list[LlmReply]:
    found = {reply.request_id: reply for reply in replies}
    if len(found) != len(requests) or any(request.request_id not in found for request in requests):
        raise StageError(f"the backend gave {len(found)} replies to {len(requests)} requests; each needs exactly one")
    return list(found.values())


def _add_usage(before: LlmReply | None, reply: LlmReply) -> LlmReply:
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
