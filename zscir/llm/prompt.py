"""Read prompt files (Markdown with rules and demonstrations) and fill in the messages of a request.

The file opens with front matter (``name``, ``version``) and holds ``# System``, ``# User`` and any number of
``# Demonstrations <set>`` sections. What never changes comes first, so that a server can cache it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from zscir.llm.answer import Answer, AnswerError, read_answer
from zscir.llm.backend_protocol import Message
from zscir.runtime.errors import RequestError

MAX_CAPTION_CHARS = 300  # a caption may be a whole page, and each request pays for its tokens
_PLACEHOLDER = re.compile(r"\{(reference|target|edit_type)\}")
_ANY_EDIT_TYPE = "any; choose the one that fits"


@dataclass(frozen=True)
class Demonstration:
    """One worked example: two captions, the requested kind of edit ("" = free) and the right answer."""

    reference: str
    target: str
    edit_type: str
    answer: Answer


@dataclass(frozen=True)
class Prompt:
    """A prompt file: the rules, the form of a question, and its demonstration sets. ``digest`` is of the whole text."""

    name: str
    version: str
    system: str
    user: str
    demonstrations: tuple[tuple[Demonstration, ...], ...]
    digest: str

    def messages(
        self, reference: str, target: str, edit_type: str | None, demonstration_set: int
    ) -> tuple[Message, ...]:
        """System rules, one demonstration set as past turns, then the question about two captions."""
        turns = [{"role": "system", "content": self.system}]
        # Fixed sets rather than examples drawn for each request: a server can cache a prefix that repeats.
        for example in self.demonstrations[demonstration_set] if self.demonstrations else ():
            turns.append(
                {"role": "user", "content": self.question(example.reference, example.target, example.edit_type or None)}
            )
            turns.append({"role": "assistant", "content": answer_text(example.answer)})
        turns.append({"role": "user", "content": self.question(reference, target, edit_type)})
        return tuple(turns)

    def question(self, reference: str, target: str, edit_type: str | None) -> str:
        """The user's turn; the captions are filled in one pass, so that a caption cannot name another placeholder."""
        values = {
            "reference": quote_caption(reference),
            "target": quote_caption(target),
            "edit_type": edit_type or _ANY_EDIT_TYPE,
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.user)


def quote_caption(caption: str) -> str:
    """An untrusted caption as one JSON string on one line: bounded, without control characters, unable to close a tag.

    Brackets and bars go as escapes, because chat models have control tokens such as ``<|im_end|>`` and ``[INST]``.
    """
    flat = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", caption).strip()[:MAX_CAPTION_CHARS]
    quoted = json.dumps(flat.encode("utf-8", "replace").decode(), ensure_ascii=False)
    return re.sub(r"[<>&`{}|\[\]]", lambda match: f"\\u{ord(match[0]):04x}", quoted)


def answer_text(answer: Answer) -> str:
    """An answer as a model should write it: compact JSON, in the order of the schema."""
    return json.dumps(answer.model_dump(mode="json"), ensure_ascii=False)


def load_prompt(path: Path) -> Prompt:
    """The prompt in a Markdown file; RequestError names the file and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot read this prompt ({error}); check the path") from None
    return parse_prompt(text, str(path))


def parse_prompt(text: str, where: str) -> Prompt:
    """The prompt in ``text``; ``where`` names its origin in a RequestError."""
    front, body = _front_matter(text, where)
    sections = _sections(body, where)
    for needed in ("System", "User"):
        if not sections.get(needed):
            raise RequestError(f"{where}: section '# {needed}' is missing or empty")
    absent = [name for name in ("{reference}", "{target}") if name not in sections["User"]]
    if absent:
        raise RequestError(f"{where}: section '# User' does not hold {' and '.join(absent)}")
    sets = [
        tuple(_demonstrations(content, f"{where}: '# {title}'"))
        for title, content in sections.items()
        if title.startswith("Demonstrations")
    ]
    return Prompt(
        front["name"],
        front["version"],
        sections["System"],
        sections["User"],
        tuple(sets),
        sha256(text.encode()).hexdigest(),
    )


def _front_matter(text: str, where: str) -> tuple[dict[str, str], str]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    values = dict(re.findall(r"^(\w+):[ \t]*(.+?)[ \t]*$", match[1], re.MULTILINE)) if match else {}
    if match is None or sorted(values) != ["name", "version"]:
        raise RequestError(
            f"{where}: a prompt opens with '---', 'name: ...', 'version: ...', '---'; got {sorted(values)}"
        )
    return values, text[match.end() :]


def _sections(body: str, where: str) -> dict[str, str]:
    parts = re.split(r"^# (.+?)[ \t]*$", body, flags=re.MULTILINE)
    titles = parts[1::2]
    unknown = [title for title in titles if not re.fullmatch(r"System|User|Demonstrations( \S+)?", title)]
    if unknown or len(set(titles)) != len(titles):
        raise RequestError(f"{where}: sections {titles}; allowed, once each: System, User, Demonstrations <set>")
    return {title: content.strip() for title, content in zip(titles, parts[2::2], strict=True)}


# Read by a pattern and not as YAML, in which "yes" or a colon in a caption would be something else.
_DEMONSTRATION = re.compile(
    r"^- reference: (.+)\n- target: (.+)\n(?:- edit type: (.+)\n)?- answer: (\{.+\})$", re.MULTILINE
)


def _demonstrations(content: str, where: str) -> list[Demonstration]:
    found = []
    for reference, target, edit_type, answer in _DEMONSTRATION.findall(content):
        try:
            found.append(Demonstration(reference, target, edit_type, read_answer(answer)))
        except AnswerError as error:
            raise RequestError(f"{where}: the answer for {reference!r} breaks the schema: {error}") from None
    if not found or len(found) != content.count("- reference:"):
        raise RequestError(
            f"{where}: a demonstration is '- reference:', '- target:', ['- edit type:',] '- answer: {{...}}'"
        )
    return found
