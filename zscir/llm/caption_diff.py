"""Compare two parsed captions: what they share, and the changes that lead from the first to the second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from zscir.llm.caption_parser import NounPhrase, ParsedCaption, SceneSetting, canonical_word, with_article

ChangeKind = Literal["attribute", "position", "action", "count", "replace", "add", "remove", "setting", "all"]
# As English orders adjectives; to tell two things apart people take the colour first.
_ATTRIBUTES = ("size", "age", "state", "pattern", "colour", "material")
_DISTINGUISHING = ("colour", "pattern", "size", "material", "age", "state")
_DETAILS: tuple[ChangeKind, ...] = ("setting", "attribute", "replace", "action", "count", "position")
_MAX_NAME_WORDS = 6  # longer names leave no room in a request of at most 20 words


@dataclass(frozen=True)
class CaptionChange:
    """One change. ``certain`` is false where the target only adds a detail that the reference leaves open."""

    kind: ChangeKind
    attribute: str = ""
    subject: str = ""  # the user's name for the object in the reference
    old: str = ""
    new: str = ""
    plural: bool = False
    certain: bool = True

    @property
    def is_short_enough(self) -> bool:
        """Whether the words it needs are few enough for a short request."""
        return all(len(words.split()) <= _MAX_NAME_WORDS + 2 for words in (self.subject, self.old, self.new))


@dataclass(frozen=True)
class CaptionDiff:
    """``shared`` counts what both name: 1 for each object or setting, a half for an attribute of a replaced object."""

    preserved: tuple[str, ...]
    changes: tuple[CaptionChange, ...]
    shared: float


def diff_captions(reference: ParsedCaption, target: ParsedCaption) -> CaptionDiff:
    """What ``target`` keeps of ``reference`` and what it changes, the certain changes first."""
    old_things, old_settings = _split_settings(reference, target)
    new_things, new_settings = _split_settings(target, reference)
    kept, left_old, left_new = _match(old_things, new_things, heads_must_agree=True)
    swapped, gone, added = _match(left_old, left_new, heads_must_agree=False)
    changes = [change for old, new in kept for change in _changes_of(old, new, shortest_noun_phrase(old, old_things))]
    changes = _merged(changes, len(new_things))
    changes += [
        CaptionChange("replace", old=shortest_noun_phrase(old, old_things), new=with_article(new), plural=old.plural)
        for old, new in swapped
    ]
    changes += [CaptionChange("add", new=with_article(new), plural=_is_many(new)) for new in added]
    if target.noun_phrases:  # a caption that names nothing does not say that objects are gone
        changes += [
            CaptionChange("remove", old=shortest_noun_phrase(old, old_things), plural=_is_many(old)) for old in gone
        ]
    kept_settings, setting_changes = _compare_settings(old_settings, new_settings)
    changes += setting_changes
    names = [new.noun for _, new in kept] + kept_settings
    shared = len(names) + 0.5 * sum(len(old.all_attributes & new.all_attributes) for old, new in swapped)
    return CaptionDiff(tuple(names), tuple(sorted(changes, key=_rank)), shared)


def _rank(change: CaptionChange) -> int:
    """Certain changes first; of mere details, those that describe most of the target first."""
    return 0 if change.certain else 1 + _DETAILS.index(change.kind)


def shortest_noun_phrase(thing: NounPhrase, among: list[NounPhrase]) -> str:
    """The shortest name that tells ``thing`` from the others: its noun, or an attribute and its noun."""
    rivals = [other for other in among if other is not thing and other.head == thing.head]
    if not rivals:
        return thing.noun
    # Colour first: people tell two alike objects apart by it before they mention a size.
    for kind in _DISTINGUISHING:
        if thing.values(kind) and all(other.values(kind) != thing.values(kind) for other in rivals):
            return f"{thing.own_words(kind)} {thing.noun}"
    return thing.name


def _split_settings(parsed: ParsedCaption, other: ParsedCaption) -> tuple[list[NounPhrase], tuple[SceneSetting, ...]]:
    """Noun phrases and settings; what the other caption has as a setting ("on grass") is one here too."""
    heads = {setting.noun_phrase.head for setting in other.settings}
    as_settings = tuple(SceneSetting("", thing) for thing in parsed.noun_phrases if thing.head in heads)
    return [thing for thing in parsed.noun_phrases if thing.head not in heads], parsed.settings + as_settings


def _match(
    old: list[NounPhrase], new: list[NounPhrase], heads_must_agree: bool
) -> tuple[list[tuple[NounPhrase, NounPhrase]], list[NounPhrase], list[NounPhrase]]:
    """Pairs by likeness, best first (equal likeness in order of mention), and what is left on either side."""
    scored = sorted(
        (-_likeness(old_phrase, new_phrase), i, j)
        for i, old_phrase in enumerate(old)
        for j, new_phrase in enumerate(new)
        if old_phrase.head == new_phrase.head or not heads_must_agree
    )
    taken: dict[int, int] = {}
    for _, i, j in scored:
        if i not in taken and j not in taken.values():
            taken[i] = j
    pairs = [(old[i], new[taken[i]]) for i in sorted(taken)]
    left_old = [thing for i, thing in enumerate(old) if i not in taken]
    return pairs, left_old, [thing for j, thing in enumerate(new) if j not in taken.values()]


def _likeness(old: NounPhrase, new: NounPhrase) -> int:
    conflicts = sum(
        1 for kind in _ATTRIBUTES if old.values(kind) and new.values(kind) and old.values(kind) != new.values(kind)
    )
    # A shared attribute outweighs a conflict: two red cubes of different sizes are one cube that grew.
    same_place = bool(old.position) and old.position == new.position
    return 2 * len(old.all_attributes & new.all_attributes) + same_place - conflicts


def _changes_of(old: NounPhrase, new: NounPhrase, subject: str) -> list[CaptionChange]:
    """The changes of a thing that both captions name."""
    if _own_modifiers(new) and _own_modifiers(new) != _own_modifiers(old):
        certain = bool(_own_modifiers(old))
        return [CaptionChange("replace", old=subject, new=with_article(new), plural=old.plural, certain=certain)]
    changes = []
    for kind in _ATTRIBUTES:
        before, after = old.values(kind), new.values(kind)
        if after and after != before:
            changes.append(
                CaptionChange(
                    "attribute",
                    kind,
                    subject,
                    old.own_words(kind),
                    new.own_words(kind),
                    _is_many(old),
                    certain=bool(before),
                )
            )
    if new.position and new.position != old.position:
        changes.append(
            CaptionChange("position", "", subject, old.position, new.position, _is_many(old), bool(old.position))
        )
    if new.participle and new.participle != old.participle:
        changes.append(
            CaptionChange("action", "", subject, old.participle, new.participle, _is_many(old), bool(old.participle))
        )
    return changes + _count_change(old, new)


def _count_change(old: NounPhrase, new: NounPhrase) -> list[CaptionChange]:
    before, after = old.count, new.count
    if after is not None and before is not None and after != before:
        new_text = f"one {new.noun}" if after == 1 else with_article(new)
        return [CaptionChange("count", old=f"{_number(before)} {old.noun}", new=new_text, plural=after > 1)]
    if before == 1 and after is None and new.plural:
        return [CaptionChange("count", old=f"one {old.noun}", new=f"several {new.noun}", plural=True)]
    return []


def _number(count: int) -> str:
    return with_article(NounPhrase(("x",), "x", count=count)).split()[0] if count > 1 else "one"


def _own_modifiers(thing: NounPhrase) -> frozenset[str]:
    """Words of a thing that are no known attributes: "soccer" in "red soccer ball"."""
    known = {word for _, word in thing.attributes}
    return frozenset(canonical_word(word) for word in thing.words if word not in known) - {thing.head}


def _is_many(thing: NounPhrase) -> bool:
    return thing.plural or (thing.count or 1) > 1


def _merged(changes: list[CaptionChange], things: int) -> list[CaptionChange]:
    """Where every one of several things gets the same new attribute, one change of everything."""
    for kind in _ATTRIBUTES:
        same = [change for change in changes if change.kind == "attribute" and change.attribute == kind]
        if (
            len(same) == things >= 2
            and len({change.new for change in same}) == 1
            and all(change.certain for change in same)
        ):
            rest = [change for change in changes if change not in same]
            return [CaptionChange("all", kind, new=same[0].new), *rest]
    return changes


def merge_attributes(changes: tuple[CaptionChange, ...]) -> tuple[CaptionChange, ...]:
    """Several new attributes of one thing become one change: "big" and "spotted" become "big spotted"."""
    merged: list[CaptionChange] = []
    for change in changes:
        same = [
            other for other in changes if other.kind == change.kind == "attribute" and other.subject == change.subject
        ]
        if len(same) < 2:
            merged.append(change)
        elif change is same[0]:
            merged.append(replace(change, attribute="several", old="", new=" ".join(part.new for part in same)))
    return tuple(merged)


def _compare_settings(
    old: tuple[SceneSetting, ...], new: tuple[SceneSetting, ...]
) -> tuple[list[str], list[CaptionChange]]:
    """The names of the settings that stay, and the changes from one to another of the same slot."""
    kept: list[str] = []
    changes: list[CaptionChange] = []
    left = list(old)
    for setting in new:
        same = next((before for before in left if before.noun_phrase.head == setting.noun_phrase.head), None)
        if same is not None:
            left.remove(same)
            kept.append(setting.noun_phrase.noun)
            changes += _changes_of(same.noun_phrase, setting.noun_phrase, same.noun_phrase.noun)
    heads = {setting.noun_phrase.head for setting in old}
    for setting in new:
        if setting.noun_phrase.head in heads:
            continue
        before = next((candidate for candidate in left if candidate.slot == setting.slot), None)
        if before is not None:
            left.remove(before)
        old_noun, old_text = (before.noun_phrase.noun, before.text) if before else ("", "")
        changes.append(
            CaptionChange("setting", setting.slot, old_noun, old_text, setting.text, certain=before is not None)
        )
    return kept, changes
