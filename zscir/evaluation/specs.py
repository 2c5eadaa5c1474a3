"""Spec fields of evaluations: a benchmark's split, parts and protocols, and a preprocessing by name."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, Field, model_validator

from zscir.benchmarks.registry import benchmark_info
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec


def _registered_name(name: str) -> str:
    try:
        return benchmark_info(name).name
    except RequestError as error:
        raise ValueError(str(error)) from None  # pydantic then names the file and the field


BenchmarkName = Annotated[str, AfterValidator(_registered_name)]
Preprocessing = Literal["clip", "targetpad", "warp"]
# CLIP's own (LinCIR, Pic2Word), CLIP4Cir's TargetPad (SEARLE, CIReVL), and the warping that BLIP comes with.
FIT_OF_PREPROCESSING = {"clip": "crop", "targetpad": "pad", "warp": "warp"}  # -> fit of the method's pixel spec
_PixelSpecT = TypeVar("_PixelSpecT", bound=BaseModel)


class BenchmarkEntry(Spec):
    """One benchmark of an evaluation. No ``parts``: all categories or tasks. No ``texts``: the method's own protocol.

    ``sha256`` (file -> digest, as in data_specs/benchmarks) refuses annotation files that are not the official ones.
    ``allow_missing``: so many images may be missing or broken; the protocol in the table then says how many are.
    """

    name: BenchmarkName
    split: str = "val"
    parts: tuple[str, ...] | None = None
    protocol: str | None = None
    texts: str | None = None
    sha256: dict[str, str] | None = None
    allow_missing: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _is_offered(self) -> Self:
        problem = benchmark_info(self.name).request_problem(self.split, self.protocol, self.parts or ())
        if problem:
            raise ValueError(problem)
        return self


def pixels_for(pixels: _PixelSpecT, preprocessing: str | None) -> _PixelSpecT:
    """The method's own pixel spec, with the fit of ``preprocessing`` where one is named."""
    return pixels if preprocessing is None else pixels.model_copy(update={"fit": FIT_OF_PREPROCESSING[preprocessing]})


def preprocessing_of(fit: str) -> str:
    """The name of a fit in tables."""
    return next(name for name, own in FIT_OF_PREPROCESSING.items() if own == fit)
