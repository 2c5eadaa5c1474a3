import json
from collections.abc import Iterator, Sequence

import pytest

from zscir.llm.answer import refusal_answer
from zscir.llm.backend_protocol import LlmReply, LlmRequest, unwrap_reply, wrap_reply
from zscir.llm.filters import ParseTally, instruction_reject_reason, normalise_instruction
from zscir.llm.retry_invalid import answer_all
from zscir.runtime.errors import StageError

GOOD = refusal_answer("nothing in common").model_dump_json()


class Scripted:
    """A backend that says the n-th text of its script in the n-th round and remembers the requests that it got."""

    def __init__(self, *texts: str | None) -> None:
        self.texts = texts
        self.received: list[list[tuple[str, int, int]]] = []

    def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        text = self.texts[len(self.received)]
        self.received.append([(request.request_id, request.attempt, request.seed) for request in requests])
        for request in reversed(requests):
            said = GOOD if request.request_id == "easy" else text
            yield LlmReply(request.request_id, said, None if said else "http_500: down", tokens_in=5, tokens_out=2)


def request(name: str) -> LlmRequest:
    return LlmRequest(name, "a", "b", None, (), 10)


def test_only_unreadable_answers_are_resampled_each_time_with_the_next_seed() -> None:
    backend = Scripted("garbage", "{}", GOOD)
    easy, hard = answer_all(backend, [request("easy"), request("hard")], resamples=3)
    assert backend.received == [[("easy", 0, 10), ("hard", 0, 10)], [("hard", 1, 11)], [("hard", 2, 12)]]
    assert (easy.error, easy.attempts) == (None, 1)
    assert (hard.error, hard.attempts, hard.tokens_in, hard.tokens_out) == (None, 3, 15, 6)


def test_an_answer_that_stays_unreadable_keeps_its_text_beside_the_error() -> None:
    (reply,) = answer_all(Scripted("one", "two"), [request("hard")], resamples=1)
    assert reply.text == "two"
    assert reply.error == "invalid_answer: not_json: no JSON object"


def test_a_failure_of_the_service_is_not_resampled() -> None:
    backend = Scripted(None)
    (reply,) = answer_all(backend, [request("hard")], resamples=3)
    assert reply.error == "http_500: down"
    assert len(backend.received) == 1


def test_a_backend_that_loses_a_request_is_an_error() -> None:
    class Forgetful:
        def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
            yield LlmReply(requests[0].request_id, GOOD)

    with pytest.raises(StageError, match="1 replies to 2 requests"):
        answer_all(Forgetful(), [request("a"), request("b")], 0)


def test_a_reply_is_kept_as_json_whatever_the_model_wrote() -> None:
    wrapped = wrap_reply(LlmReply("x", 'a "quoted" \ud800 \x00 text'))
    assert wrapped is not None
    assert json.loads(wrapped)["text"] == unwrap_reply(wrapped) == 'a "quoted" ? \x00 text'
    wrapped.encode()
    assert wrap_reply(LlmReply("x", None)) is None
    for strange in ("[]", '{"text": 3}', "3", "{"):
        with pytest.raises(ValueError):
            unwrap_reply(strange)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("make it red", ""),
        ("compare prices on the sign", ""),
        ("a viewpoint over the sea", ""),
        ("the same black and white photo", ""),
        ("red", "length"),
        (" ".join(["word"] * 21), "length"),
        ("make the caption shorter", "leak"),
        ("like image 2 but red", "leak"),
        ("unlike the first image, red", "leak"),
        ("match the target photo instead", "leak"),
        ("Viewpoint. Change to a bird's eye view", "aspect_name"),
        ("Spatial & background: put it outside", "aspect_name"),
        ("Use comparative language to say bigger", "aspect_name"),
        ("Negate the presence of dogs", "aspect_name"),
        ("make it <b>red</b> now", "markup"),
        ("see https://evil.example/x for more", "markup"),
        ("make it red\u202e now", "unprintable"),
        ("make it\x00 red now", "unprintable"),
    ],
)
def test_why_an_instruction_is_rejected(text: str, reason: str) -> None:
    assert instruction_reject_reason(text, 3, 20) == reason


def test_instructions_are_normalised() -> None:
    assert normalise_instruction('  "make  it\n red" ') == "make it red"
    assert normalise_instruction("cafe\u0301 at night") == "café at night"
    assert normalise_instruction('"') == '"'


def test_the_tally_counts_what_a_manifest_shows() -> None:
    tally = ParseTally()
    for similarity, refused in ((0.83, True), (0.87, False), (None, False), (float("nan"), True), (-0.2, False)):
        tally.count_similarity(similarity, refused)
    tally.keep("Make it red", "other")
    tally.keep("make it red", "other")
    tally.reject("length")
    facts = tally.facts()
    assert tally.uses("MAKE IT RED") == 2
    assert (facts["rows"], facts["rejects"], facts["distinct_texts"], facts["mean_words"]) == (2, 1, 1, 3.0)
    assert facts["refused_of_asked"] == {"0.0": [0, 1], "0.8": [1, 2], "unknown": [1, 2]}
