"""Client for OpenAI-compatible chat completions: bounded concurrency, retries with back-off, one reply per request.

Over aiohttp: with 600-byte bodies on 64 connections a request costs it 0.09 ms of CPU, httpx (and the openai package,
which is built on it) 3.4 ms, so that one core could not feed a fast server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from zscir.llm.answer import json_schema
from zscir.llm.backend_protocol import LlmReply, LlmRequest, error_text, temperature_for
from zscir.llm.endpoint import Endpoint
from zscir.llm.models import OpenAIModel
from zscir.runtime.errors import RequestError

MAX_BODY_BYTES = 1_000_000  # a completion takes a few kB; no body is read without a bound
_RETRIED_STATUS = frozenset({408, 409, 425, 429})  # these pass by themselves, and so does every 5xx
_SETUP_ERRORS = {401: "the key was not accepted", 403: "the key may not use it", 404: "no such address or model"}


class CompletionError(Exception):
    """One failed attempt. ``retriable``: whether another makes sense; ``retry_after_s``: what the service asks for."""

    def __init__(self, kind: str, detail: str, retriable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.retriable = retriable
        self.retry_after_s = retry_after_s


class OpenAIBackend:
    """Sends requests to ``endpoint``; each is tried until it is answered or out of attempts."""

    def __init__(self, model: OpenAIModel, endpoint: Endpoint) -> None:
        self.model = model
        self.endpoint = endpoint

    def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        """One reply each; RequestError at once where the service says that key, address or model is wrong."""
        return iter(_run_to_end(self, requests))

    async def answer_all_async(self, requests: Sequence[LlmRequest]) -> list[LlmReply]:
        """All replies, in the order of the requests."""
        connector = aiohttp.TCPConnector(limit=self.endpoint.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout_s)
        semaphore = asyncio.Semaphore(self.endpoint.concurrency)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self.endpoint.headers, trust_env=True
        ) as session:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._answer_with_retries(session, semaphore, request))
                        for request in requests
                    ]
            except ExceptionGroup as errors:  # a wrong set-up: the other requests were cancelled
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _answer_with_retries(
        self, session: aiohttp.ClientSession, semaphore: asyncio.Semaphore, request: LlmRequest
    ) -> LlmReply:
        async def attempt() -> LlmReply:
            async with semaphore:  # given back while a request waits for its next attempt
                content = await self._post(session, self.body(request))
            return read_completion(content, request.request_id)

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CompletionError) and error.retriable),
            stop=stop_after_attempt(self.endpoint.attempts),
            wait=self._wait_s(Random(f"{request.seed} {request.request_id}")),
            reraise=True,
        )
        try:
            reply = self._without_key(await retrying(attempt))
        except CompletionError as error:
            reply = LlmReply(request.request_id, None, error_text(error.kind, self.endpoint.redact(error.detail)))
        return replace(reply, attempts=int(retrying.statistics["attempt_number"]))

    def _wait_s(self, jitter: Random) -> Callable[[RetryCallState], float]:
        """The wait before the next attempt, as tenacity asks for it."""

        def wait_s(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            retry_after_s = error.retry_after_s if isinstance(error, CompletionError) else None
            return self.endpoint.wait_s(state.attempt_number - 1, retry_after_s, jitter.random())

        return wait_s

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
        """The body of a good response; CompletionError for one bad attempt, RequestError for a wrong set-up."""
        url = f"{self.endpoint.base_url}/chat/completions"
        try:
            # A redirect would carry the key to another host.
            async with session.post(url, json=body, allow_redirects=False) as response:
                content = await _read_bounded(response)
                status, headers = response.status, response.headers
        except TimeoutError:
            raise CompletionError(
                "timeout", f"no answer within {self.endpoint.timeout_s:g} s", retriable=True
            ) from None
        except aiohttp.InvalidURL:
            raise RequestError("ZSCIR_LLM_BASE_URL is not a valid address; check it") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CompletionError("connection", f"{type(error).__name__}: {error}", retriable=True) from None
        if status == 200:
            return content
        detail = self.endpoint.redact(content[:300].decode("utf-8", "replace"))
        if status in _SETUP_ERRORS:
            raise RequestError(
                f"the language model service answered {status}: {_SETUP_ERRORS[status]}; check ZSCIR_LLM_BASE_URL, "
                f"ZSCIR_LLM_API_KEY and the model name {self.model.name!r}. Its answer: "
                f"{error_text('detail', detail)[8:]}"
            )
        # OpenAI answers a spent quota with 429 as well, but no waiting helps there.
        retriable = (status in _RETRIED_STATUS or status >= 500) and b"insufficient_quota" not in content
        raise CompletionError(f"http_{status}", detail, retriable, parse_retry_after(headers.get("Retry-After")))

    def body(self, request: LlmRequest) -> dict[str, Any]:
        """The JSON of one request, in the form of OpenAI's chat completions."""
        model = self.model
        body: dict[str, Any] = {**model.extra, "model": model.name, "messages": list(request.messages)}
        body[model.limit_field] = model.max_tokens
        if model.temperature is not None:
            body["temperature"] = temperature_for(request, model.temperature)
        if model.seeded:
            body["seed"] = request.seed
        if model.structure == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif model.structure != "free":
            strict = model.structure == "strict_schema"
            schema: dict[str, Any] = {"name": "answer", "schema": json_schema(lengths=not strict)}
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {**schema, "strict": True} if strict else schema,
            }
        return body

    def _without_key(self, reply: LlmReply) -> LlmReply:
        redact = self.endpoint.redact
        return replace(
            reply,
            text=None if reply.text is None else redact(reply.text),
            error=reply.error and redact(reply.error),
            model_revision=reply.model_revision and redact(reply.model_revision),
            finish_reason=reply.finish_reason and redact(reply.finish_reason),
        )


def _run_to_end(backend: OpenAIBackend, requests: Sequence[LlmRequest]) -> list[LlmReply]:
    """Run the event loop here, or in a thread where this thread runs one already (a flow, a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(backend.answer_all_async(requests))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, backend.answer_all_async(requests)).result()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for chunk in response.content.iter_chunked(65_536):
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise CompletionError("bad_body", f"more than {MAX_BODY_BYTES} bytes", retriable=False)
    return content


def read_completion(content: bytes, request_id: str) -> LlmReply:
    """The reply in the body of a 200 response; CompletionError when it is no chat completion."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refused = message.get("content"), message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise CompletionError("bad_body", f"not a chat completion: {content[:100]!r}", retriable=True) from None
    error = None
    if refused:
        error = error_text("refused", str(refused))
    elif finish == "content_filter":
        error = error_text("content_filter", "the service withheld the answer")
    elif not isinstance(text, str) or not text.strip():
        error = error_text("empty", "the answer has no text")
    elif finish == "length":
        error = error_text("truncated", "the answer was cut off; raise max_tokens")
    usage = body.get("usage")
    return LlmReply(
        request_id,
        text if isinstance(text, str) else None,
        error,
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
        model_revision=_model_revision(body.get("model"), body.get("system_fingerprint")),
        finish_reason=finish if isinstance(finish, str) else None,
    )


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    # Not isinstance, which takes True for a number; the bound is that of the Parquet column.
    return value if type(value) is int and 0 <= value < 2**62 else None


def _model_revision(model: Any, fingerprint: Any) -> str | None:
    """Which weights answered, as far as the service says: "gpt-4o-mini-2024-07-18 fp_44709d6fcb"."""
    parts = [error_text("", part)[2:] for part in (model, fingerprint) if isinstance(part, str) and part]
    return " ".join(parts) or None


def parse_retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header (a number or a date), None where it says nothing of use."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return seconds if 0 <= seconds < 1e6 else None
