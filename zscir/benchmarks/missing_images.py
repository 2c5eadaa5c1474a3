"""Missing images: the error that lists them, and how a protocol is named when some are allowed to be missing.

Features made elsewhere (``zscir score``) and images embedded here (``evaluate``) follow the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping

from zscir.benchmarks.files import shortened

WITHOUT = " without "
MAX_LISTED_IMAGES = 10


def missing_images_problem(
    where: str, absent: Mapping[str, str], total: int, allowed: int, how_to_get: str, unknown_count: int = 0
) -> str:
    """Why an evaluation without the ``absent`` (id -> reason) of ``total`` images is refused; empty when it is not.

    ``unknown_count``: so many more are absent, whose ids no file at hand holds.
    """
    count = len(absent) + unknown_count
    if count <= allowed:
        return ""
    named = [f"{image_id} ({reason})" for image_id, reason in absent.items()]
    listed = [shortened(named, MAX_LISTED_IMAGES)] if named else []
    listed += [f"{unknown_count} that no list at hand names"] if unknown_count else []
    words = f"{allowed} may be missing" if allowed else "none may be missing (allow_missing)"
    return (
        f"{where}: {count} of {total} images are missing or cannot be read, {words}: {'; '.join(listed)}. {how_to_get}"
    )


def protocol_without_images(protocol: str, count: int) -> str:
    """``official without 2 images``: a ranking protocol that is comparable with no other."""
    return f"{protocol.split(WITHOUT)[0]}{WITHOUT}{count} images" if count else protocol
