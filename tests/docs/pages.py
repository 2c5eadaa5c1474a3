"""The documentation's pages, and what tests read out of them: fenced blocks, commands, links and anchors."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In the order in which their commands are run: data.md continues the run that the README starts.
FIRST = ("README.md", "docs/data.md", "docs/quickstart.md")
PAGES = [
    *FIRST,
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in FIRST),
    "CONTRIBUTING.md",
    "SECURITY.md",
    "infra/README.md",
]
FENCE = re.compile(r"(?:<!-- example: ([a-z ]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A command ends with its line, unless the line ends in a quotation that goes on.
COMMAND = re.compile(r"""(?:[^\n"]|"[^"]*")+""")
ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=.*")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``example`` is the name in the comment before it, which says that a test of its own reads it."""

    page: str
    language: str
    text: str
    example: str


@dataclass(frozen=True)
class Command:
    """One command of a bash block: its text without comment, the variables that it sets, and its words."""

    page: str
    text: str
    environment: tuple[str, ...]
    words: tuple[str, ...]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language: str, *pages: str) -> list[Block]:
    """The fenced blocks of one language, of all pages unless some are named."""
    found = [Block(page, *_block(match)) for page in pages or PAGES for match in FENCE.finditer(read(page))]
    return [block for block in found if block.language == language]


def _block(match: "re.Match[str]") -> tuple[str, str, str]:
    return match[2], match[3], match[1] or ""


def example(name: str, page: str = "CONTRIBUTING.md") -> str:
    """The block that ``<!-- example: NAME -->`` stands before."""
    found = [match[3] for match in FENCE.finditer(read(page)) if match[1] == name]
    assert len(found) == 1, f"{page} has {len(found)} examples '{name}'"
    return found[0]


def commands() -> list[Command]:
    """Every command of the bash blocks, in the order of the pages; one that stands on several pages comes once."""
    found: dict[str, Command] = {}
    for block in blocks("bash"):
        for line in COMMAND.findall(block.text.replace("\\\n", " ")):
            words = shlex.split(line, comments=True)
            variables = [word for word in words if ASSIGNMENT.fullmatch(word)] if words[:1] != ["export"] else []
            before = 0
            while before < len(words) and words[before] in variables:
                before += 1
            if words[before:]:
                text = " ".join(re.sub(r"\s+#\s.*$", "", line).split())
                command = Command(block.page, text, tuple(words[:before]), tuple(words[before:]))
                found.setdefault(text, command)
    return list(found.values())


def inline_code(page: str) -> list[str]:
    """The code spans of a page, outside its fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", read(page)))


def links(page: str) -> list[str]:
    """The targets of a page's links, outside code."""
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", read(page)))
    return re.findall(r"\[[^\]\n]*\]\(([^)\s]+)\)", prose)


def anchors(page: str) -> set[str]:
    """The anchors that a web page of this Markdown has: its headings in lower case, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
