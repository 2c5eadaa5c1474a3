"""The template backend: writes three requests from two captions by rule, without a model.

It is the demo's backend and the control against which a language model's triplets are measured. It knows few words and
refuses freely; what it writes always follows from the target's caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from random import Random

from zscir.llm.answer import INSTRUCTIONS_PER_ANSWER, Answer, refusal_answer
from zscir.llm.backend_protocol import LlmReply, LlmRequest
from zscir.llm.caption_diff import CaptionChange, CaptionDiff, diff_captions, merge_attributes
from zscir.llm.caption_parser import parse_caption
from zscir.llm.paraphrase import edit_type_of, paraphrase_changes
from zscir.llm.prompt import answer_text

TEMPLATE_VERSION = "1"
MIN_SHARED = 1.0  # one object or setting; two captions that share less have no edit between them
MAX_UNCERTAIN = 2  # a caption's details are endless; a user names one or two


class TemplateBackend:
    """Answers by ``describe_change``; reads no messages and cannot fail."""

    def __init__(self, max_changes: int = 3) -> None:
        self.max_changes = max_changes

    def answer(self, requests: Sequence[LlmRequest]) -> Iterator[LlmReply]:
        """One answer each, in order."""
        for request in requests:
            answer = describe_change(request.reference_caption, request.target_caption, request.seed, self.max_changes)
            yield LlmReply(request.request_id, answer_text(answer), model_revision=TEMPLATE_VERSION)


def describe_change(reference_caption: str, target_caption: str, seed: int, max_changes: int = 3) -> Answer:
    """The answer for a pair of captions; a refusal (``valid`` false) where no short request fits.

    Equal arguments give equal answers.
    """
    reference, target = parse_caption(reference_caption), parse_caption(target_caption)
    difference = diff_captions(reference, target)
    changes = _relevant_changes(difference)
    if reason := _refusal_reason(difference, changes, max_changes):
        return refusal_answer(reason)
    texts = paraphrase_changes(changes, len(reference.noun_phrases) == 1, _rng(seed, reference_caption, target_caption))
    if len(set(texts)) < INSTRUCTIONS_PER_ANSWER:
        return refusal_answer("the change cannot be said in 3 to 20 words")
    return Answer(
        valid=True,
        reason="",
        preserved=tuple(name[:60] for name in difference.preserved[:5]),
        changed=tuple(_format_change(change)[:60] for change in changes[:5]),
        edit_type=edit_type_of(changes),
        instructions=tuple(texts),
        target_caption=" ".join(target_caption.split())[:300],
    )


def _relevant_changes(difference: CaptionDiff) -> tuple[CaptionChange, ...]:
    """The certain changes; where there are none, the first details that only the target names."""
    certain = tuple(change for change in difference.changes if change.certain)
    return merge_attributes(certain or difference.changes[:MAX_UNCERTAIN])


def _refusal_reason(difference: CaptionDiff, changes: tuple[CaptionChange, ...], max_changes: int) -> str:
    if not changes:
        return "both captions say the same"
    if difference.shared < MIN_SHARED:
        return "the captions share nothing"
    if len(changes) > max_changes:
        return f"the captions differ in {len(changes)} ways, more than {max_changes}"
    if not all(change.is_short_enough for change in changes):
        return "the captions name things too long to say"
    return ""


def _format_change(change: CaptionChange) -> str:
    if change.kind == "add":
        return f"+ {change.new}"
    if change.kind == "remove":
        return f"no {change.old}"
    return f"{change.old or change.subject} -> {change.new}".strip()


def _rng(seed: int, reference_caption: str, target_caption: str) -> Random:
    # From the captions too: all pairs of one seed would be phrased alike.
    text = "\n".join((str(seed), reference_caption, target_caption))
    return Random(int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:16], "big"))
