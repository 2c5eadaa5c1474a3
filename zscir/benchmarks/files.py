"""Read annotation files as checked JSON values; errors name the file and the entry at fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from zscir.runtime.errors import RequestError

AnnotationEntry = dict[str, Any]


def find_root(root: Path | str, names: Sequence[str], probe: str, how_to_get: str) -> Path:
    """The folder that holds ``probe``: ``root`` itself or its subfolder called one of ``names``."""
    base = Path(root)
    places = [base, *(base / name for name in names)]
    for place in places:
        if (place / probe).is_file():
            return place
    tried = ", ".join(str(place / probe) for place in places)
    raise RequestError(f"annotation file {probe} not found; tried {tried}. Get it: {how_to_get}")


def read_json(path: Path, kind: type[list[Any]] | type[dict[str, Any]], how_to_get: str) -> Any:
    """The list or dictionary in a JSON file; RequestError when it is missing, broken or of another kind."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Get it: {how_to_get}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"{path}: not valid JSON ({error}). Get it again: {how_to_get}") from None
    if not isinstance(value, kind):
        raise RequestError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def read_entries(path: Path, how_to_get: str) -> list[AnnotationEntry]:
    """The dictionaries in a JSON list; RequestError when the list is empty or an entry is something else."""
    entries: list[AnnotationEntry] = read_json(path, list, how_to_get)
    if not entries:
        raise RequestError(f"{path}: no entries; a benchmark without queries has no score")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise RequestError(f"{path}: entry {index} is a {type(entry).__name__}, expected an object")
    return entries


def string_field(entry: AnnotationEntry, name: str, where: str) -> str:
    """The string ``entry[name]``."""
    value = entry.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{where}: '{name}' is {_shown(entry, name)}, expected a string")
    return value


def integer_field(entry: AnnotationEntry, name: str, where: str) -> int:
    """The integer ``entry[name]``."""
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{where}: '{name}' is {_shown(entry, name)}, expected an integer")
    return value


def strings_field(entry: AnnotationEntry, name: str, where: str) -> tuple[str, ...]:
    """The strings in the list ``entry[name]``."""
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"{where}: '{name}' is {_shown(entry, name)}, expected a list of strings")
    return tuple(value)


def integers_field(entry: AnnotationEntry, name: str, where: str) -> tuple[int, ...]:
    """The integers in the list ``entry[name]``."""
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise RequestError(f"{where}: '{name}' is {_shown(entry, name)}, expected a list of integers")
    return tuple(value)


def object_field(entry: AnnotationEntry, name: str, where: str) -> AnnotationEntry:
    """The object ``entry[name]``."""
    value = entry.get(name)
    if not isinstance(value, dict):
        raise RequestError(f"{where}: '{name}' is {_shown(entry, name)}, expected an object")
    return value


def coco_id(value: Any) -> str:
    """A COCO image id as this package writes it: ``"000000000042"``, 42 and 42.0 are one image."""
    whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
    if whole or (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and value.isdecimal()):
        return str(int(value))
    raise RequestError(f"circo: id {value!r} is not a COCO image id (an integer)")


def check_distinct_ids(ids: Iterable[str], where: str) -> list[str]:
    """``ids`` as a list; RequestError names those that occur twice."""
    listed = list(ids)
    twice = sorted(item for item, count in Counter(listed).items() if count > 1)
    if twice:
        raise RequestError(f"{where}: {len(twice)} ids occur more than once: {shortened(twice)}")
    if not listed:
        raise RequestError(f"{where}: no ids")
    return listed


def shortened(items: Sequence[str], max_items: int = 5) -> str:
    """The first few of ``items`` as text, and how many more there are."""
    rest = f" and {len(items) - max_items} more" if len(items) > max_items else ""
    return ", ".join(items[:max_items]) + rest


def _shown(entry: AnnotationEntry, name: str) -> str:
    if name not in entry:
        return "missing"
    shown = repr(entry[name])
    return shown if len(shown) <= 60 else shown[:57] + "..."
