"""filter_text: downloaded images become those whose every caption is of use as a text.

An image with several captions goes when one of them does, so that none of the texts below reaches a training.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from unicodedata import category

from pydantic import Field, model_validator

from zscir.data.images.keep_list import FilterReject, ImageRow, first_row_per_image, kept_image_rows, write_keep_list
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import track
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

TextShare = Annotated[float, Field(ge=0, le=1)]
TextCheck = Callable[[str], FilterReject | None]
# A word that is an address, or the name of a file or host, rather than a word of a language.
URL_LIKE = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)\S*"
    r"|\S+@\S+\.\S+"
    r"|\S+\.(?:jpe?g|png|gif|webp|avif|bmp|tiff?|svg|pdf|html?|php|aspx?|com|net|org|info|co\.uk)(?:[/?#]\S*)?",
    re.IGNORECASE,
)
TOO_SHORT_REASONS = {"chars": "short_text", "words": "few_words"}
TOO_LONG_REASONS = {"chars": "long_text", "words": "many_words"}


class FilterTextSpec(Spec):
    """Bounds of every caption. Words are what blanks part, so a Chinese caption is one word.

    ``min_letter_share`` and ``max_non_ascii_share`` are of the characters that are not blank, ``max_url_share`` of
    those in addresses and file names. ``max_images_per_text``: a text (blanks and case apart) of more images than that
    says nothing about any of them. ``languages``: ISO 639 codes such as "en"; a text goes when the language identifier
    (py3langid, 139 languages) gives them together less than ``min_language_share``. That is low on purpose: three words
    show little of their language. At 0.01 it takes 26 of 26 captions in ten other languages, and in English none of the
    texts of CIRR, 0.5 % of FashionIQ's and 1.5 % of CIRCO's shared concepts, which are two to five words.
    """

    min_chars: Annotated[int, Field(ge=1)] = 3
    max_chars: Annotated[int, Field(ge=1)] = 1000
    min_words: Annotated[int, Field(ge=1)] = 1
    max_words: Annotated[int, Field(ge=1)] = 150
    min_letter_share: TextShare = 0.3
    # Off by default: it would take every language that is not written in Latin letters.
    max_non_ascii_share: TextShare = 1.0
    max_url_share: TextShare = 0.5
    max_images_per_text: Annotated[int, Field(ge=1)] | None = None
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    min_language_share: TextShare = 0.01

    @model_validator(mode="after")
    def _not_empty(self) -> "FilterTextSpec":
        for what in ("chars", "words"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low > high:
                raise ValueError(f"min_{what} = {low}, more than max_{what} = {high}")
        return self


@stage(version=1)
def filter_text(spec: FilterTextSpec, images: Artifact, out: Path, keep: Artifact | None = None) -> Facts:
    """Write ``keep.parquet`` and ``rejects.parquet``: short_text, long_text, few_words, many_words, url_like,
    few_letters, non_ascii, repeated_text, other_language; the detail quotes the caption.

    Memory: some 100 bytes per image, and as much per different text with ``max_images_per_text``.
    """

    def captions() -> Iterator[ImageRow]:
        return kept_image_rows("filter_text", images, keep, ("text",))

    # Cheapest first: the language identifier sees only what has passed the others.
    checks: list[TextCheck] = [partial(_character_reject, spec)]
    if spec.max_images_per_text is not None:
        checks.append(
            _repetition_check(Counter(_normalised_key(row["text"]) for row in captions()), spec.max_images_per_text)
        )
    if spec.languages is not None:
        checks.append(_language_check(spec.languages, spec.min_language_share))
    left_out: dict[str, FilterReject] = {}
    # Read twice (three times with max_images_per_text) rather than held: captions of 10^8 pairs fill a memory.
    for row in track(captions(), None, "filter_text (captions)"):
        if row["image_key"] not in left_out:
            found = next((found for check in checks if (found := check(row["text"])) is not None), None)
            if found is not None:
                left_out[row["image_key"]] = found
    return write_keep_list(
        "filter_text", first_row_per_image(captions()), lambda row: left_out.get(row["image_key"]), out
    )


def _character_reject(spec: FilterTextSpec, text: str) -> FilterReject | None:
    """The checks that need only the characters of one text."""
    words = text.split()
    solid = "".join(words)
    for what, size in (("chars", len(text)), ("words", len(words))):
        low, high = getattr(spec, f"min_{what}"), getattr(spec, f"max_{what}")
        if size < low:
            return FilterReject(TOO_SHORT_REASONS[what], f"{size} {what}, at least {low}: {text}")
        if size > high:
            return FilterReject(TOO_LONG_REASONS[what], f"{size} {what}, at most {high}: {text}")
    url_like = _share(sum(len(word) for word in words if URL_LIKE.fullmatch(word)), solid)
    if url_like > spec.max_url_share:
        return FilterReject("url_like", f"{url_like:.2f} is addresses, at most {spec.max_url_share:g}: {text}")
    # Marks (M) are letters too: Hindi and Thai write their vowels with them, and isalpha() says no.
    letters = _share(sum(char.isalpha() or category(char).startswith("M") for char in solid), solid)
    if letters < spec.min_letter_share:
        return FilterReject("few_letters", f"{letters:.2f} is letters, at least {spec.min_letter_share:g}: {text}")
    non_ascii = _share(sum(not char.isascii() for char in solid), solid)
    if non_ascii > spec.max_non_ascii_share:
        return FilterReject("non_ascii", f"{non_ascii:.2f} is not ASCII, at most {spec.max_non_ascii_share:g}: {text}")
    return None


def _share(count: int, solid: str) -> float:
    return count / len(solid) if solid else 0.0


def _normalised_key(text: str) -> bytes:
    """A short stand-in for a text, the same for all that differ in blanks and case only."""
    # 16 bytes per text in place of the text: the counter holds one entry for each different one.
    return sha256(" ".join(text.casefold().split()).encode()).digest()[:16]


def _repetition_check(images: Counter[bytes], max_images: int) -> TextCheck:
    def check(text: str) -> FilterReject | None:
        count = images[_normalised_key(text)]
        if count <= max_images:
            return None
        return FilterReject("repeated_text", f"on {count} images, at most {max_images}: {text}")

    return check


def _language_check(languages: tuple[str, ...], min_share: float) -> TextCheck:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # Without norm_probs py3langid gives log-likelihoods, which no share can be compared with.
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    unknown = sorted(set(languages) - set(identifier.labels))
    if unknown:
        raise RequestError(f"filter_text: languages {unknown} are not known; there are {sorted(identifier.labels)}")

    def check(text: str) -> FilterReject | None:
        ranked = identifier.rank(text)
        share = sum(probability for language, probability in ranked if language in languages)
        if share >= min_share:
            return None
        return FilterReject("other_language", f"{', '.join(languages)}: {share:.4f}, rather {ranked[0][0]}: {text}")

    return check
