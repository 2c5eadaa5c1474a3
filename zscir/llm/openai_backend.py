"""The chat backend: requests go to any OpenAI-compatible service, whose moods become replies or errors.

aiohttp, because a request costs it about 0.1 ms of CPU where httpx-based clients take 3 ms.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import aiohttp

from zscir.llm.answer import json_schema
from zscir.llm.backend_protocol import LlmReply, LlmRequest, error_text, temperature_for
from zscir.llm.endpoint import Endpoint
from zscir.llm.models import OpenAIModel
from zscir.runtime.errors import RequestError

MAX_BODY_BYTES = 1_000_000
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_SETUP_ERRORS = {401: "the key was not accepted", 403: "the key may not use it", 404: "no such address or model"}


class CompletionError(Exception):
    """One failed attempt. ``again``: whether another makes sense; ``asked_s``: the wait that the service asks for."""

    def __init__(self, kind: str, detail: str, again: bool, asked_s: float | None = None) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.again = again
        self.asked_s = asked_s


class OpenAIBackend:
    """Asks ``endpoint`` with bounded concurrency; a request is tried until it is answered or out of attempts."""

    def __init__(self, model: OpenAIModel, endpoint: Endpoint) -> None:
        self.model = model
        self.endpoint = endpoint

    def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        """One reply each; RequestError at once where the service says that key, address or model is wrong."""
        return iter(_run_to_end(self, requests))

    async def ask_all(self, requests: Sequence[LlmRequest]) -> list[LlmReply]:
        """All replies, in the order of the requests."""
        limits = aiohttp.TCPConnector(limit=self.endpoint.concurrency)
        patience = aiohttp.ClientTimeout(total=self.endpoint.timeout_s)
        gate = asyncio.Semaphore(self.endpoint.concurrency)
        async with aiohttp.ClientSession(
            connector=limits, timeout=patience, headers=self.endpoint.headers, trust_env=True
        ) as session:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._ask(session, gate, request)) for request in requests]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, request: LlmRequest) -> LlmReply:
        chance = Random(f"{request.seed} {request.request_id}")
        attempt = 0
        while True:
            async with gate:
                try:
                    reply = read_completion(
                        await self._post(session, self.body(request)), request.request_id, attempt + 1
                    )
                    return self._without_key(reply)
                except CompletionError as error:
                    failed = error
            attempt += 1
            if not failed.again or attempt >= self.endpoint.attempts:
                text = error_text(failed.kind, self.endpoint.hide(failed.detail))
                return LlmReply(request.request_id, None, text, attempts=attempt)
            await asyncio.sleep(self.endpoint.wait_s(attempt - 1, failed.asked_s, chance.random()))

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
        """The body of a good response; Failure for one bad attempt, RequestError for a wrong set-up."""
        url = f"{self.endpoint.base_url}/chat/completions"
        try:
            async with session.post(url, json=body, allow_redirects=False) as response:
                content = await _read_bounded(response)
                status, headers = response.status, response.headers
        except TimeoutError:
            raise CompletionError("timeout", f"no answer within {self.endpoint.timeout_s:g} s", again=True) from None
        except aiohttp.InvalidURL:
            raise RequestError("ZSCIR_LLM_BASE_URL is not an address that can be asked; check it") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CompletionError("connection", f"{type(error).__name__}: {error}", again=True) from None
        if status == 200:
            return content
        detail = self.endpoint.hide(content[:300].decode("utf-8", "replace"))
        if status in _SETUP_ERRORS:
            raise RequestError(
                f"the language model service answered {status}: {_SETUP_ERRORS[status]}; check ZSCIR_LLM_BASE_URL, "
                f"ZSCIR_LLM_API_KEY and the model name {self.model.name!r}. It said: {error_text('detail', detail)[8:]}"
            )
        spent = b"insufficient_quota" in content
        again = (status in _RETRIED_STATUS or status >= 500) and not spent
        raise CompletionError(f"http_{status}", detail, again, requested_wait_s(headers.get("Retry-After")))

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
        hide = self.endpoint.hide
        return LlmReply(
            reply.request_id,
            None if reply.text is None else hide(reply.text),
            reply.error and hide(reply.error),
            reply.tokens_in,
            reply.tokens_out,
            reply.attempts,
            reply.model_revision and hide(reply.model_revision),
            reply.finish_reason and hide(reply.finish_reason),
        )


def _run_to_end(backend: OpenAIBackend, requests: Sequence[LlmRequest]) -> list[LlmReply]:
    """Run the event loop here, or in a thread where this thread runs one already (a flow, a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(backend.ask_all(requests))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, backend.ask_all(requests)).result()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    content = b""
    async for chunk in response.content.iter_chunked(65_536):
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            raise CompletionError("bad_body", f"more than {MAX_BODY_BYTES} bytes", again=False)
    return content


def read_completion(content: bytes, request_id: str, attempts: int) -> LlmReply:
    """The reply in the body of a 200 response; Failure when it is no chat completion."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refused = message.get("content"), message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise CompletionError("bad_body", f"not a chat completion: {content[:100]!r}", again=True) from None
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
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        attempts,
        _model_revision(body.get("model"), body.get("system_fingerprint")),
        finish if isinstance(finish, str) else None,
    )


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 2**62 else None


def _model_revision(model: Any, fingerprint: Any) -> str | None:
    """Which weights answered, as far as the service says: "gpt-4o-mini-2024-07-18 fp_44709d6fcb"."""
    parts = [error_text("", part)[2:] for part in (model, fingerprint) if isinstance(part, str) and part]
    return " ".join(parts) or None


def requested_wait_s(value: str | None) -> float | None:
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
