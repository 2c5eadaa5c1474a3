"""Images that are not there become an error that lists them or, as far as it is allowed, a benchmark without them.

One and the same for features made elsewhere (``zscir score``) and for images embedded here (``evaluate``).
"""

from __future__ import annotations

from collections.abc import Mapping

from zscir.benchmarks.files import shortened

WITHOUT = " without "
MAX_LISTED_IMAGES = 10


def missing_images_problem(
    where: str, absent: Mapping[str, str], total: int, allowed: int, get: str, unnamed: int = 0
) -> str:
    """Why an evaluation without the ``absent`` (id -> reason) of ``total`` images is refused; empty when it is not.

    ``unnamed``: so many more are absent, which nothing at hand names.
    """
    count = len(absent) + unnamed
    if count <= allowed:
        return ""
    named = [f"{one} ({reason})" for one, reason in absent.items()]
    listed = [shortened(named, MAX_LISTED_IMAGES)] if named else []
    listed += [f"{unnamed} that no list at hand names"] if unnamed else []
    words = f"{allowed} may be missing" if allowed else "none may be missing (allow_missing)"
    return f"{where}: {count} of {total} images are missing or cannot be read, {words}: {'; '.join(listed)}. {get}"


def protocol_without_images(protocol: str, count: int) -> str:
    """``official without 2 images``: a ranking protocol that is comparable with no other."""
    return f"{protocol.split(WITHOUT)[0]}{WITHOUT}{count} images" if count else protocol
