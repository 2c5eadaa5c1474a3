"""The answer schema: parse and validate what a model wrote about two captions, or say why it is no answer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StringConstraints, ValidationError, model_validator

from zscir.runtime.specs import Spec

# CIRR's nine aspects of modification texts, and "other".
EditType = Literal[
    "cardinality",
    "addition",
    "negation",
    "direct addressing",
    "compare & change",
    "comparative",
    "conjunction",
    "spatial & background",
    "viewpoint",
    "other",
]
EDIT_TYPES: tuple[EditType, ...] = get_args(EditType)
ANSWER_VERSION = 1
INSTRUCTIONS_PER_ANSWER = 3
MAX_ANSWER_CHARS = 20_000  # some ten times the longest legal answer

ShortText = Annotated[str, StringConstraints(max_length=60)]
Instruction = Annotated[str, StringConstraints(max_length=160)]


class Answer(Spec):
    """What a backend says of one pair. ``valid`` false is a refusal with a reason, a first-class answer.

    The order of the fields is the order of generation, so that a model compares before it writes.
    """

    valid: bool
    reason: Annotated[str, StringConstraints(max_length=120)]
    preserved: Annotated[tuple[ShortText, ...], Field(max_length=5)]
    changed: Annotated[tuple[ShortText, ...], Field(max_length=5)]
    edit_type: EditType
    instructions: Annotated[tuple[Instruction, ...], Field(max_length=INSTRUCTIONS_PER_ANSWER)]
    target_caption: Annotated[str, StringConstraints(max_length=300)]

    @model_validator(mode="after")
    def _three_when_valid(self) -> Self:
        if self.valid and len(self.instructions) != INSTRUCTIONS_PER_ANSWER:
            raise ValueError(
                f"a valid answer has {INSTRUCTIONS_PER_ANSWER} instructions, this one {len(self.instructions)}"
            )
        return self


class AnswerError(ValueError):
    """A text that is no answer; ``reason`` is a short class for counting, ``detail`` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def refusal_answer(reason: str) -> Answer:
    """The answer of a backend that judges a pair to be of no use."""
    return Answer(
        valid=False,
        reason=reason[:120],
        preserved=(),
        changed=(),
        edit_type="other",
        instructions=(),
        target_caption="",
    )


def read_answer(text: str) -> Answer:
    """The answer in ``text``. Its wrapping may vary (a code fence, words around it), its content may not.

    Raises AnswerError for anything else; no text makes it raise another error.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise AnswerError("too_long", f"{len(text)} characters; at most {MAX_ANSWER_CHARS} are read")
    body = _extract_json(text)
    if not body:
        raise AnswerError("not_json", "no JSON object" if text.strip() else "empty")
    try:
        # Lone surrogates reach pydantic as bytes, which it refuses as invalid JSON; str.encode would raise here.
        return Answer.model_validate_json(body.encode("utf-8", "surrogatepass"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise AnswerError("not_json", str(first["msg"])[:200]) from None
        where = ".".join(str(part) for part in first["loc"]) or "answer"
        raise AnswerError("schema", _printable(f"{where}: {first['msg']}")[:200]) from None


def _extract_json(text: str) -> str:
    """From the first opening brace after any closed chain of thought to the last closing brace."""
    visible = text.rsplit("</think>", 1)[-1]
    start, end = visible.find("{"), visible.rfind("}")
    return visible[start : end + 1] if 0 <= start < end else ""


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]+", " ", text)


def json_schema(lengths: bool = True) -> dict[str, Any]:
    """The same as a closed JSON schema for structured decoding: every field required, nothing else allowed.

    ``lengths`` false leaves out ``maxLength``, which the strict mode of some services does not know.
    """

    def text(length: int) -> dict[str, Any]:
        return {"type": "string", "maxLength": length} if lengths else {"type": "string"}

    def texts(count: int, length: int) -> dict[str, Any]:
        return {"type": "array", "maxItems": count, "items": text(length)}

    properties = {
        "valid": {"type": "boolean"},
        "reason": text(120),
        "preserved": texts(5, 60),
        "changed": texts(5, 60),
        "edit_type": {"type": "string", "enum": list(EDIT_TYPES)},
        "instructions": texts(INSTRUCTIONS_PER_ANSWER, 160),
        "target_caption": text(300),
    }
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}
