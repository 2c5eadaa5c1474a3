"""The interface of an LLM backend: requests about pairs of captions, and one reply for each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zscir.llm.answer import EditType

Message = dict[str, str]

# Failures that lie with the service rather than with the pair.
_OUTAGE = re.compile(r"connection|timeout|bad_body|http_429|http_5\d\d")
RETRY_TEMPERATURE = 0.7  # a greedy model would repeat its unreadable answer


@dataclass(frozen=True)
class LlmRequest:
    """One request. ``messages`` is empty for a backend that reads no prompt; ``attempt`` counts from 0."""

    request_id: str
    reference_caption: str
    target_caption: str
    edit_type: EditType | None
    messages: tuple[Message, ...]
    seed: int
    attempt: int = 0


@dataclass(frozen=True)
class LlmReply:
    """What came back: the raw text, or an error ``"kind: detail"``, or both when the text was of no use."""

    request_id: str
    text: str | None
    error: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    attempts: int = 1
    model_revision: str | None = None
    finish_reason: str | None = None


class Backend(Protocol):
    """Answers requests. A request that fails is a reply with an error; only a wrong set-up raises."""

    def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        """Exactly one reply for each request, in any order."""
        ...


def error_text(kind: str, detail: str) -> str:
    """The text of an error: a class for counting, then a short printable detail."""
    return f"{kind}: {re.sub(r'[^ -~]+', ' ', detail).strip()[:300]}"


def error_kind(error: str) -> str:
    """The class of an error made by ``error_text``."""
    return error.partition(":")[0]


def is_outage(reply: LlmReply) -> bool:
    """Whether a reply failed for a reason that lies with the service (no connection, a time-out, 429, 5xx)."""
    return reply.error is not None and _OUTAGE.fullmatch(error_kind(reply.error)) is not None


def temperature_for(request: LlmRequest, temperature: float) -> float:
    """The sampling temperature of an attempt: further ones need some randomness."""
    return temperature if request.attempt == 0 else max(temperature, RETRY_TEMPERATURE)


def wrap_reply(reply: LlmReply) -> str | None:
    """The JSON text that a response row keeps of a reply: whatever the model wrote, this is valid JSON."""
    if reply.text is None:
        return None
    # In an envelope: the text itself may be broken JSON, or no JSON at all.
    envelope: dict[str, Any] = {"text": clean_unicode(reply.text), "finish_reason": reply.finish_reason}
    return json.dumps(envelope, ensure_ascii=False, sort_keys=True)


def unwrap_reply(response: str) -> str:
    """The raw text kept by ``wrap_reply``; ValueError for JSON of another shape."""
    envelope = json.loads(response)
    if not isinstance(envelope, dict) or not isinstance(envelope.get("text"), str):
        raise ValueError("a response is a JSON object with a 'text'")
    return str(envelope["text"])


def clean_unicode(text: str) -> str:
    """``text`` with lone surrogates (which no UTF-8 file can hold) replaced by question marks."""
    return text.encode("utf-8", "replace").decode()
