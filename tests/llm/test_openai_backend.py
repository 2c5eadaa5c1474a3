import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from zscir.llm.backend_protocol import LlmReply, LlmRequest, is_outage
from zscir.llm.endpoint import Endpoint
from zscir.llm.models import OpenAIModel
from zscir.llm.openai_backend import OpenAIBackend, parse_retry_after
from zscir.runtime.errors import RequestError

KEY = "sk-very-secret-123"
ANSWER = json.dumps(
    {
        "valid": True, "reason": "", "preserved": [], "changed": [], "edit_type": "other",
        "instructions": ["make it red now", "the same in red", "red this time please"], "target_caption": "red",
    }
)  # fmt: skip
Script = Callable[[int, dict[str, Any]], tuple[int, dict[str, str], bytes]]


def completion(content: Any = ANSWER, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content} | message}
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    return json.dumps({"model": "tiny-1", "system_fingerprint": "fp_9", "choices": [choice], "usage": usage}).encode()


class Service:
    """A chat service on loopback that does what a script says: (n-th request of this question, body) -> response."""

    def __init__(self, script: Script) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.most_busy = 0
        seen: dict[str, int] = {}
        lock, service = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = body["messages"][-1]["content"]
                with lock:
                    service.bodies.append(body)
                    service.headers.append(dict(self.headers))
                    seen[question] = seen.get(question, 0) + 1
                    attempt = seen[question]
                    service.busy += 1
                    service.most_busy = max(service.busy, service.most_busy)
                counted = True
                try:
                    status, headers, content = script(attempt, body)
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", headers.get("Content-Length", str(len(content))))
                    with lock:  # before the last byte, which is the header's where the body is empty
                        service.busy, counted = service.busy - 1, False
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True
                finally:
                    with lock:
                        service.busy -= counted

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def serving(script: Script) -> Iterator[Service]:
    service = Service(script)
    thread = threading.Thread(target=service.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.server.shutdown()
        thread.join()
        service.server.server_close()


def backend(service: Service, model: OpenAIModel | None = None, **patience: Any) -> OpenAIBackend:
    endpoint = Endpoint(service.url, KEY, concurrency=4, attempts=4, timeout_s=60, first_wait_s=0.02, max_wait_s=2)
    return OpenAIBackend(model or OpenAIModel(backend="openai", name="tiny"), replace(endpoint, **patience))


def questions(count: int) -> list[LlmRequest]:
    conversations = [
        ({"role": "system", "content": "rules"}, {"role": "user", "content": f"question {n}"}) for n in range(count)
    ]
    return [LlmRequest(f"id{n}", "a cube", "a red cube", None, messages, 3) for n, messages in enumerate(conversations)]


def ask(
    script: Script, count: int = 1, model: OpenAIModel | None = None, **patience: Any
) -> tuple[list[LlmReply], Service]:
    with serving(script) as service:
        replies = list(backend(service, model, **patience).answer(questions(count)))
    return replies, service


def test_a_good_answer_is_recorded_with_its_tokens_and_the_model_that_gave_it() -> None:
    (reply,), service = ask(lambda n, body: (200, {}, completion()))
    assert reply == LlmReply("id0", ANSWER, None, 11, 7, 1, "tiny-1 fp_9", "stop")
    body = service.bodies[0]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("tiny", 0.7, 3, 400)
    assert body["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
    assert "strict" not in body["response_format"]["json_schema"]
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_what_is_sent_follows_the_spec() -> None:
    model = OpenAIModel(
        backend="openai", name="o", temperature=None, seeded=False, limit_field="max_completion_tokens",
        structure="strict_schema", extra={"chat_template_kwargs": {"enable_thinking": False}},
    )  # fmt: skip
    _, service = ask(lambda n, body: (200, {}, completion()), model=model)
    body = service.bodies[0]
    assert body["max_completion_tokens"] == 400
    assert not {"temperature", "seed", "max_tokens"} & set(body)
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "maxLength" not in json.dumps(body)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    (reply,), _ = ask(lambda n, body: (status, {}, b"busy") if n < 3 else (200, {}, completion()))
    assert (reply.error, reply.attempts) == (None, 3)


def test_the_wait_that_the_service_asks_for_is_kept() -> None:
    started = time.monotonic()
    (reply,), _ = ask(lambda n, body: (429, {"Retry-After": "1"}, b"") if n == 1 else (200, {}, completion()))
    assert reply.error is None
    assert time.monotonic() - started >= 1


def test_a_service_that_stays_down_is_an_outage_after_the_last_attempt() -> None:
    (reply,), service = ask(lambda n, body: (503, {}, b"<html><script>alert(1)</script> down\x00\n</html>"))
    assert (reply.text, reply.attempts, len(service.bodies)) == (None, 4, 4)
    assert reply.error == "http_503: <html><script>alert(1)</script> down </html>"
    assert is_outage(reply)


def test_a_rejected_request_is_not_tried_again_and_is_no_outage() -> None:
    (reply,), service = ask(lambda n, body: (400, {}, b'{"error": "content filter"}'))
    assert (reply.attempts, len(service.bodies)) == (1, 1)
    assert reply.error is not None
    assert reply.error.startswith("http_400:")
    assert not is_outage(reply)


def test_a_spent_quota_is_not_retried() -> None:
    (reply,), service = ask(lambda n, body: (429, {}, b'{"error": {"code": "insufficient_quota"}}'))
    assert len(service.bodies) == 1
    assert is_outage(reply)


def test_a_slow_service_times_out() -> None:
    def slow(n: int, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.6)
        return 200, {}, completion()

    (reply,), _ = ask(slow, timeout_s=0.2, attempts=2)
    assert reply.error == "timeout: no answer within 0.2 s"
    assert reply.attempts == 2


def test_a_broken_connection_is_an_outage() -> None:
    (reply,), _ = ask(lambda n, body: (200, {"Content-Length": "9999", "Connection": "close"}, b"half"), attempts=2)
    assert reply.error is not None
    assert reply.error.startswith("connection: ")
    assert is_outage(reply)


def test_nobody_listening_is_an_outage() -> None:
    with serving(lambda n, body: (200, {}, b"")) as service:
        gone = service.url
    endpoint = Endpoint(gone, attempts=2, first_wait_s=0.01)
    (reply,) = OpenAIBackend(OpenAIModel(backend="openai", name="tiny"), endpoint).answer(questions(1))
    assert reply.error is not None
    assert reply.error.startswith("connection: ")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not json", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b'{"choices": "abc"}',
        b"[" * 100_000, b"\xff\xfe", b'{"choices": [{"message": {"content": "x"}}]',
    ],
)  # fmt: skip
def test_a_body_that_is_no_completion_is_tried_again_and_then_recorded(body: bytes) -> None:
    (reply,), service = ask(lambda n, _: (200, {}, body), attempts=2)
    assert len(service.bodies) == 2
    assert reply.error is not None
    assert reply.error.startswith("bad_body: ")


def test_an_endless_body_is_cut_off() -> None:
    (reply,), _ = ask(lambda n, body: (200, {}, b" " * 1_500_000))
    assert reply.error == "bad_body: more than 1000000 bytes"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (completion(None, refusal="I cannot help"), "refused: I cannot help"),
        (completion(None, "content_filter"), "content_filter: the service withheld the answer"),
        (completion(ANSWER[:30], "length"), "truncated: the answer was cut off; raise max_tokens"),
        (completion(None), "empty: the answer has no text"),
        (completion([{"type": "text", "text": "x"}]), "empty: the answer has no text"),
        (completion("   "), "empty: the answer has no text"),
    ],
)
def test_refusals_and_cut_answers_are_errors_of_the_row(content: bytes, error: str) -> None:
    (reply,), service = ask(lambda n, body: (200, {}, content))
    assert reply.error == error
    assert len(service.bodies) == 1
    assert not is_outage(reply)


def test_odd_bookkeeping_fields_are_left_out() -> None:
    body = json.loads(completion()) | {"usage": {"prompt_tokens": 10**30, "completion_tokens": "7"}, "model": {"a": 1}}
    (reply,), _ = ask(lambda n, _: (200, {}, json.dumps(body | {"system_fingerprint": None}).encode()))
    assert (reply.tokens_in, reply.tokens_out, reply.model_revision) == (None, None, None)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_address_or_model_stops_at_once_without_showing_the_key(status: int) -> None:
    with pytest.raises(RequestError) as caught:
        ask(lambda n, body: (status, {}, f"no such key: {KEY}".encode()), count=20)
    assert str(status) in str(caught.value)
    assert "ZSCIR_LLM_API_KEY" in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_key_is_kept_out_of_every_reply() -> None:
    echo = completion(f"your key is {KEY}") if (status := 200) else b""
    (reply,), _ = ask(lambda n, body: (status, {}, echo))
    (failed,), _ = ask(lambda n, body: (500, {}, f"Bearer {KEY}".encode()), attempts=1)
    assert reply.text == "your key is ***"
    assert KEY not in repr((reply, failed))
    assert KEY not in repr(Endpoint("http://x", KEY))


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with serving(lambda n, body: (200, {}, completion())) as other:
        (reply,), _ = ask(lambda n, body: (307, {"Location": f"{other.url}/chat/completions"}, b""))
    assert reply.error is not None
    assert reply.error.startswith("http_307")
    assert other.bodies == []


def test_many_requests_are_sent_side_by_side_within_the_limit_and_each_gets_its_own_reply() -> None:
    def echo(n: int, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.01)
        question = body["messages"][-1]["content"]
        return (500, {}, b"") if n == 1 and question.endswith("7") else (200, {}, completion(f"re: {question}"))

    replies, service = ask(echo, count=60)
    assert [reply.text for reply in replies] == [f"re: question {n}" for n in range(60)]
    assert 1 < service.most_busy <= 4


def test_a_thread_that_runs_an_event_loop_can_send_requests_too() -> None:
    import asyncio

    with serving(lambda n, body: (200, {}, completion())) as service:

        async def inside() -> list[LlmReply]:
            return list(backend(service).answer(questions(2)))

        assert [reply.error for reply in asyncio.run(inside())] == [None, None]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("5", 5.0), ("0.5", 0.5), ("-3", None), ("soon", None), ("1e99", None), ("nan", None), ("", None)],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    wait = parse_retry_after(formatdate(time.time() + 30, usegmt=True))
    assert wait is not None
    assert 27 < wait <= 30
    assert parse_retry_after(formatdate(time.time() - 30, usegmt=True)) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "not set"),
        ({"ZSCIR_LLM_BASE_URL": "localhost:8000"}, "not an http"),
        ({"ZSCIR_LLM_BASE_URL": "https://user:pw@host/v1"}, "holds a password"),
        ({"ZSCIR_LLM_BASE_URL": "http://h/v1", "ZSCIR_LLM_CONCURRENCY": "many"}, "ZSCIR_LLM_CONCURRENCY"),
        ({"ZSCIR_LLM_BASE_URL": "http://h/v1", "ZSCIR_LLM_ATTEMPTS": "0.5"}, "ZSCIR_LLM_ATTEMPTS"),
        ({"ZSCIR_LLM_BASE_URL": "http://h/v1", "ZSCIR_LLM_TIMEOUT_S": "-1"}, "ZSCIR_LLM_TIMEOUT_S"),
    ],
)
def test_a_wrong_environment_says_which_variable(environment: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Endpoint.from_env(environment)


def test_waits_grow_spread_and_stay_bounded() -> None:
    endpoint = Endpoint.from_env({"ZSCIR_LLM_BASE_URL": "http://h/v1/"})
    assert endpoint.base_url == "http://h/v1"
    assert endpoint.wait_s(0, None, 0.0) == 0.5
    assert endpoint.wait_s(2, None, 0.5) == 3.0
    assert endpoint.wait_s(1000, None, 0.0) == 30.0
    assert endpoint.wait_s(0, 20.0, 0.9) == 20.0
    assert endpoint.wait_s(0, 9999.0, 0.9) == 60.0


def test_extra_fields_may_not_replace_what_the_spec_has_fields_for() -> None:
    with pytest.raises(RequestError, match="may not set"):
        OpenAIModel.parse({"backend": "openai", "name": "x", "extra": {"seed": 3}}, "x.toml")
