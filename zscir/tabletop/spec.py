"""The specs of the tabletop world: how many scenes, how alike, how many broken URLs, and how large its benchmarks."""

from typing import Annotated

from pydantic import Field, model_validator

from zscir.runtime.specs import Spec

UrlShare = Annotated[float, Field(ge=0, le=1)]


class TabletopSpec(Spec):
    """A web of ``scenes`` pictures. Shares are chances per URL; each URL's fate depends on (seed, index) only."""

    seed: int = 0
    scenes: Annotated[int, Field(ge=1)] = 6000
    size_px: Annotated[int, Field(ge=32, le=1024)] = 96  # sides vary between 0.85 and 1.3 of it
    sibling_share: Annotated[float, Field(ge=0, le=0.75)] = 0.5  # scenes that are an edit of another scene
    missing_share: UrlShare = 0.02  # 404
    server_error_share: UrlShare = 0.01  # 500
    html_share: UrlShare = 0.01  # a page instead of an image, with status 200
    truncated_share: UrlShare = 0.01  # half a JPEG that claims to be whole
    reset_share: UrlShare = 0.005  # the connection breaks in the middle of the body
    hang_share: UrlShare = 0.002  # nothing comes for ``hang_s`` seconds
    hang_s: Annotated[float, Field(gt=0)] = 60.0
    duplicate_share: UrlShare = 0.01  # rows of the list that occur twice
    blank_share: UrlShare = 0.005  # rows without a caption
    malformed_share: UrlShare = 0.005  # rows whose URL is not one

    @model_validator(mode="after")
    def _shares_fit(self) -> "TabletopSpec":
        broken = sum(share for _, share in url_fault_shares(self))
        if broken > 1:
            raise ValueError(f"the shares of broken URLs add up to {broken:g}; at most 1 is possible")
        return self


def url_fault_shares(spec: TabletopSpec) -> list[tuple[str, float]]:
    """(fate, share) of every way in which a URL may be broken."""
    return [
        ("missing", spec.missing_share),
        ("server_error", spec.server_error_share),
        ("html", spec.html_share),
        ("truncated", spec.truncated_share),
        ("reset", spec.reset_share),
        ("hang", spec.hang_share),
    ]


class TabletopBenchmarksSpec(Spec):
    """Four benchmarks. Another ``seed`` gives others of the same kind: tune on one seed, report on another."""

    seed: int = 1
    size_px: Annotated[int, Field(ge=32, le=1024)] = 96
    fashioniq_queries: Annotated[int, Field(ge=1)] = 150  # per category
    fashioniq_gallery: Annotated[int, Field(ge=1)] = 400  # per category
    cirr_sets: Annotated[int, Field(ge=1)] = 100  # of six pictures
    cirr_test_sets: Annotated[int, Field(ge=1)] = 10
    cirr_queries_per_set: Annotated[int, Field(ge=1, le=5)] = 4
    circo_queries: Annotated[int, Field(ge=1)] = 150
    circo_test_queries: Annotated[int, Field(ge=1)] = 40
    circo_gallery: Annotated[int, Field(ge=1)] = 2000
    genecis_queries: Annotated[int, Field(ge=1)] = 150  # per task
    genecis_vg_images: Annotated[int, Field(ge=50)] = 500

    @model_validator(mode="after")
    def _galleries_hold_their_queries(self) -> "TabletopBenchmarksSpec":
        if self.fashioniq_gallery < 2 * self.fashioniq_queries:  # most scenes of a theme end a path, if not all
            needed = 2 * self.fashioniq_queries
            raise ValueError(f"fashioniq_gallery = {self.fashioniq_gallery}; the queries need {needed} or more")
        circo = 8 * (self.circo_queries + self.circo_test_queries)  # reference, up to 4 answers, 3 near misses
        if self.circo_gallery < circo:
            raise ValueError(f"circo_gallery = {self.circo_gallery}; the queries need {circo} or more")
        return self
