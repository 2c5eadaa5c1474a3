"""Parse English captions by rule into noun phrases with attributes and the settings they stand in, without a model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from zscir.llm import lexicon as lex

MAX_CAPTION_WORDS = 60
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[,.;:!?|()\[\]/&+\u2013\u2014-]")
_NOISE = tuple(re.compile(pattern) for pattern in lex.BOILERPLATE)
_LINK_PATTERN = re.compile(rf"\b(?:{'|'.join(lex.MULTIWORD_LINKS)})\b")


@dataclass(frozen=True)
class NounPhrase:
    """A noun phrase. ``head`` is canonical (singular, synonyms merged), ``words`` are the caption's own."""

    words: tuple[str, ...]
    head: str
    attributes: tuple[tuple[str, str], ...] = ()  # (kind, the caption's own word), in order
    count: int | None = None
    plural: bool = False
    position: str = ""
    action: str = ""

    @property
    def name(self) -> str:
        """The phrase without article and number."""
        return " ".join(self.words)

    @property
    def noun(self) -> str:
        """The phrase without its attributes."""
        known = [word for _, word in self.attributes]
        return " ".join(word for word in self.words if word not in known) or self.words[-1]

    def values(self, kind: str) -> frozenset[str]:
        """The canonical attributes of one kind."""
        return frozenset(canonical_word(word) for of_kind, word in self.attributes if of_kind == kind)

    def own_words(self, kind: str) -> str:
        """The caption's own words for the attributes of one kind."""
        return " ".join(word for of_kind, word in self.attributes if of_kind == kind)

    @property
    def participle(self) -> str:
        """The action in one form: "runs" and "running" are both "running"."""
        return lex.PARTICIPLES.get(lex.VERB_FORMS.get(self.action, ""), self.action)

    @property
    def all_attributes(self) -> frozenset[str]:
        """All canonical attributes."""
        return frozenset(canonical_word(word) for _, word in self.attributes)


@dataclass(frozen=True)
class SceneSetting:
    """Where a scene is: a preposition and a noun phrase."""

    link: str
    noun_phrase: NounPhrase

    @property
    def slot(self) -> str:
        """Settings of one slot exclude each other: one time, one place; any other preposition is a slot of its own."""
        if self.noun_phrase.head in lex.TIMES:
            return "time"
        return "place" if self.noun_phrase.head in lex.PLACE_PREPOSITIONS else self.link

    @property
    def text(self) -> str:
        """As a user would say it: "on a wooden table"."""
        return f"{self.link} {with_article(self.noun_phrase)}"


@dataclass(frozen=True)
class ParsedCaption:
    """The noun phrases of a caption, and its settings."""

    noun_phrases: tuple[NounPhrase, ...]
    settings: tuple[SceneSetting, ...]


@dataclass
class _Segment:
    link: str
    words: list[str] = field(default_factory=list)


def parse_caption(caption: str) -> ParsedCaption:
    """The things and settings of a caption; an empty result for a text that names none."""
    things: list[NounPhrase] = []
    settings: list[SceneSetting] = []
    early: tuple[tuple[str, str], ...] = ()  # attributes listed before the noun: "red color, ball shape"
    for segment in _segments(tokens_of(caption)):
        attributes = _attributes_alone(segment)
        if not attributes:
            _place(segment, things, settings, after_things=bool(things or early))
        elif things:
            things[-1] = _with(things[-1], attributes)
        else:
            early += attributes
    if things and early:
        things[0] = _with(things[0], early)
    return ParsedCaption(tuple(things), tuple(settings))


def _with(thing: NounPhrase, attributes: tuple[tuple[str, str], ...]) -> NounPhrase:
    added = tuple(word for _, word in attributes)
    return replace(thing, words=added + thing.words, attributes=attributes + thing.attributes)


def _attributes_alone(segment: _Segment) -> tuple[tuple[str, str], ...]:
    """The attributes in a segment that names nothing: "red" in "shoes, red", "striped" in "striped pattern"."""
    words = [word for word in segment.words if word not in lex.ARTICLES]
    listed = words[:-1] if words and words[-1] in lex.ATTRIBUTE_LABELS else words
    if segment.link not in ("", ",", "and") or not listed or any(attribute_kind(word) == "other" for word in listed):
        return ()
    return tuple((attribute_kind(word), word) for word in listed)


def tokens_of(caption: str) -> list[str]:
    """Lower-case words and punctuation without links, tags and the set phrases of picture agencies."""
    # A caption may be a whole page; its beginning is parsed.
    text = caption[:1000].lower().replace("\u2019", "'")
    for noise in _NOISE:
        text = noise.sub(" ", text)
    text = _LINK_PATTERN.sub(lambda match: match[0].replace(" ", "-"), text)
    return _WORD.findall(text)[:MAX_CAPTION_WORDS]


def _segments(tokens: list[str]) -> list[_Segment]:
    """Split where a link or punctuation stands; a verb after a noun is a link too."""
    segments = [_Segment("")]
    for number, word in enumerate(tokens):
        following = tokens[number + 1] if number + 1 < len(tokens) else "."
        if not word[0].isalnum():
            segments.append(_Segment("," if word not in "&+" else "and"))
        elif word in lex.LOCATIVES or word in lex.JOINERS or word in lex.OTHER_LINKS:
            segments.append(_Segment(word))
        elif _is_verb(word, segments[-1].words, following):
            segments.append(_Segment(f"verb {word}"))
        else:
            segments[-1].words.append(word)
    return segments


def _is_verb(token: str, before: list[str], following: str) -> bool:
    nouns = [
        word
        for word in before
        if word not in lex.ARTICLES and attribute_kind(word) == "other" and word not in lex.NUMBER_WORDS
    ]
    if not nouns or token in lex.NOT_VERBS:
        return False
    if token in lex.VERB_FORMS:
        return True
    ends_phrase = not following[0].isalnum() or following in lex.LOCATIVES | lex.JOINERS | lex.OTHER_LINKS
    if attribute_kind(token) == "state":
        return ends_phrase
    # Short words in -ing and -ed ("ring", "king", "bed") are nouns.
    participle = len(token) > 5 and token.endswith(("ing", "ed")) and attribute_kind(token) == "other"
    return participle and (ends_phrase or (token.endswith("ing") and following in lex.ARTICLES))


def _place(segment: _Segment, things: list[NounPhrase], settings: list[SceneSetting], after_things: bool) -> None:
    """Read one segment as a new noun phrase, a setting, or a position or action of the last noun phrase."""
    if segment.link.startswith("verb ") and things and not segment.words:
        things[-1] = replace(things[-1], action=things[-1].action or segment.link[5:])
    words = [word for word in segment.words if word not in lex.ARTICLES]
    if segment.link in lex.LOCATIVES and words and all(word in lex.POSITIONS for word in words):
        if things and not things[-1].position:
            corner = [word for word in words if word not in ("corner", "side")] or words
            things[-1] = replace(things[-1], position=" ".join(corner))
        return
    thing = parse_noun_phrase(segment.words)
    if thing is None or segment.link == "without":
        return
    # "a red cube, grass": a bare noun after a comma that names a place is a setting, as tags write it.
    bare = segment.link == "," and not set(segment.words) & lex.ARTICLES
    if segment.link in lex.LOCATIVES and segment.link not in ("from", "after", "before", "during"):
        settings.append(SceneSetting(segment.link.replace("-", " "), thing))
    elif bare and thing.head in lex.PLACE_PREPOSITIONS and after_things:
        settings.append(SceneSetting(lex.PLACE_PREPOSITIONS[thing.head], thing))
    elif thing.head not in lex.GENERIC_NOUNS:
        things.append(thing)


def parse_noun_phrase(phrase: list[str]) -> NounPhrase | None:
    """The noun phrase in a run of words, or None when only articles, numbers or figures stand there."""
    count = next((lex.NUMBER_WORDS[word] for word in phrase if word in lex.NUMBER_WORDS), None)
    words = tuple(
        word
        for word in phrase
        if word not in lex.ARTICLES
        and word not in lex.NUMBER_WORDS
        and not any(character.isdigit() for character in word)
    )
    words = words[1:] if words[:1] == ("of",) else words
    words = words[:-1] if words[-1:] and words[-1] in lex.ATTRIBUTE_LABELS else words
    if not words or words[-1] == "of":
        return None
    last = words[words.index("of") - 1] if "of" in words[1:] else words[-1]
    attributes = tuple(
        (attribute_kind(word), word) for word in words[: words.index(last)] if attribute_kind(word) != "other"
    )
    plural = singular(last) != last
    if count is None and set(phrase) & {"a", "an"} and not plural:
        count = 1
    return NounPhrase(words, canonical_word(last), attributes, count, plural)


def attribute_kind(word: str) -> str:
    """The kind of attribute that a word names, "other" when the lexicon does not know it."""
    return lex.ATTRIBUTE_KIND.get(lex.SYNONYMS.get(word, word), "other")


def canonical_word(word: str) -> str:
    """One form for a word, its plural and its synonyms."""
    base = singular(word)
    return lex.SYNONYMS.get(base, base)


def singular(word: str) -> str:
    """The singular of an English noun by rule."""
    if word in lex.IRREGULAR_PLURALS:
        return lex.IRREGULAR_PLURALS[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("shes", "ches", "xes", "sses", "zes")) else word[:-1]


def with_article(thing: NounPhrase) -> str:
    """The name as a new thing is introduced: "a red cube", "an old tram", "two dogs", "fresh snow"."""
    if thing.count is not None and thing.count > 1:
        return f"{lex.COUNT_NAMES[thing.count]} {thing.name}"
    if thing.plural or thing.head in lex.UNCOUNTABLE | lex.TIMES:
        return thing.name
    return with_indefinite_article(thing.name)


def with_indefinite_article(words: str) -> str:
    """``words`` with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
