"""From features in memory to metrics: this project's way beside that of the public evaluators.

Both run in turn in one process on made-up benchmarks of the official sizes, and must give the same numbers. The public
evaluators share one way: a full sort of all distances, then arrays of image names as large as the score matrix,
compared with each other. It is written out here operation by operation, in torch and NumPy as they have it: CIRR as
CLIP4Cir, SEARLE and CIReVL do it, and as Pic2Word, which has no subset metric; FashionIQ as they all do; CIRCO as
CIReVL, the fastest of them. The tests' settings give each way one core.
"""

import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.bench.conftest import Figure
from zscir.benchmarks.benchmark import GalleryBenchmark
from zscir.benchmarks.circo import Circo
from zscir.benchmarks.cirr import Cirr
from zscir.benchmarks.fashioniq import FashionIQ
from zscir.benchmarks.query import Query
from zscir.benchmarks.similarity import score_blocks

WIDTH = 768
ROUNDS = 3
Features = NDArray[np.float32]
Way = Callable[["Case"], dict[str, float]]


@dataclass
class Case:
    asked: list[Query]
    names: list[str]
    kind: str
    queries: Features
    gallery: Features

    @cached_property
    def bench(self) -> GalleryBenchmark:
        return self.fresh()

    def fresh(self) -> GalleryBenchmark:
        """A benchmark that has worked out nothing yet."""
        if self.kind == "circo":
            return Circo("val", "official", self.asked, self.names)
        if self.kind == "cirr":
            return Cirr("val", "official", self.asked, self.names)
        return FashionIQ("val", "original", self.asked, self.names, self.kind)


def made_up(kind: str, queries: int, images: int) -> Case:
    """Queries halfway between noise and their first target."""
    rng = np.random.default_rng(0)
    shape = {"cirr": "dev-{:04d}-0-img0", "circo": "{}"}.get(kind, "B{:09d}")  # as long as the official names
    names = [shape.format(n) for n in range(images)]
    gallery = rng.standard_normal((images, WIDTH), dtype=np.float32)
    asked, vectors = [], rng.standard_normal((queries, WIDTH), dtype=np.float32)
    for number in range(queries):
        chosen = rng.choice(images, 6, replace=False)
        reference, *others = (names[i] for i in chosen)
        targets = tuple(others[:4]) if kind == "circo" else (others[0],)
        excluded = (reference,) if kind == "cirr" else ()
        asked.append(Query(str(number), reference, ("a", "b"), targets, excluded, tuple(others)))
        vectors[number] += 0.1 * gallery[chosen[1]]
    return Case(asked, names, kind, vectors, gallery)


def unit(features: Features) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(features), dim=-1)


def by_names(case: Case, *, subset: bool = True) -> dict[str, float]:
    """Sort all distances, turn them into names, compare names."""
    queries, names = case.bench.queries, case.bench.gallery
    distances = 1 - unit(case.queries) @ unit(case.gallery).T
    ranked = np.array(names)[torch.argsort(distances, dim=-1)]
    if case.bench.name == "cirr":
        references = np.repeat(np.array([query.reference for query in queries]), len(names)).reshape(len(queries), -1)
        ranked = ranked[ranked != references].reshape(len(queries), -1)
    targets = np.repeat(np.array([query.targets[0] for query in queries]), ranked.shape[1]).reshape(len(queries), -1)
    labels = torch.tensor(ranked == targets)
    found = {f"R@{cut}": float(labels[:, :cut].sum() / len(labels)) * 100 for cut in (1, 5, 10, 50)}
    if case.bench.name == "cirr" and subset:
        members = np.array([query.subset for query in queries])
        kept = (ranked[..., None] == members[:, None, :]).sum(-1).astype(bool)
        inside = labels[torch.from_numpy(kept)].reshape(len(labels), -1)
        found |= {f"Rsub@{cut}": float(inside[:, :cut].sum() / len(inside)) * 100 for cut in (1, 2, 3)}
    return found


def query_by_query(case: Case) -> dict[str, float]:
    """One product, one selection and one array of all names per query."""
    gallery = unit(case.gallery)
    precisions: dict[int, list[float]] = {5: [], 10: [], 25: [], 50: []}
    for query, vector in zip(case.bench.queries, unit(case.queries), strict=True):
        ranked = np.array(case.bench.gallery)[torch.topk(vector @ gallery.T, dim=-1, k=50).indices]
        hits = torch.tensor(np.isin(ranked, query.targets), dtype=torch.uint8)
        gains = torch.cumsum(hits, dim=0) * hits / torch.arange(1, 51)
        for cut, values in precisions.items():
            values.append(float(gains[:cut].sum() / min(cut, len(query.targets))))
    return {f"mAP@{cut}": 100 * float(np.mean(values)) for cut, values in precisions.items()}


def without_subset(case: Case) -> dict[str, float]:
    return by_names(case, subset=False)


def best(times: list[tuple[float, float]]) -> tuple[float, float]:
    """The least (wall, CPU) of several rounds."""
    wall, cpu = (min(column) for column in zip(*times, strict=True))
    return wall, cpu


def clocked(work: Callable[[], dict[str, float]]) -> tuple[float, float, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


@pytest.mark.parametrize(
    ("kind", "queries", "images", "ways"),
    [
        (
            "cirr",
            4181,
            2297,
            {"CLIP4Cir, SEARLE, CIReVL": (by_names, 10.0), "Pic2Word, no subset": (without_subset, 0.0)},
        ),
        ("dress", 2017, 3817, {"all": (by_names, 5.0)}),
        ("shirt", 2038, 6346, {"all": (by_names, 5.0)}),
        ("toptee", 1961, 5373, {"all": (by_names, 5.0)}),
        ("circo", 220, 123_403, {"CIReVL": (query_by_query, 10.0)}),
    ],
)
def test_features_to_metrics(
    kind: str, queries: int, images: int, ways: dict[str, tuple[Way, float]], figure: Figure
) -> None:
    case = made_up(kind, queries, images)
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        *spent, result = clocked(work)
        times.setdefault(name, []).append((spent[0], spent[1]))
        return result

    for _ in range(ROUNDS):
        bench = case.fresh()
        result = timed("ours", lambda bench=bench: bench.score_features(case.queries, case.gallery))  # type: ignore[misc]
        timed("product", lambda: {"": float((case.queries @ case.gallery.T)[0, 0])})
        for name, (way, _) in ways.items():
            expected = timed(name, lambda way=way: way(case))  # type: ignore[misc]
            assert {metric: result[metric] for metric in expected} == pytest.approx(expected, abs=1e-4)  # float32
    (wall, cpu), (_, product) = (best(times[name]) for name in ("ours", "product"))
    about = f"{queries} x {images} x {WIDTH}: {wall:.3f} s, {cpu:.3f} s CPU, {cpu / product:.2f} x the product alone"
    for name, (_, goal) in ways.items():
        theirs = best(times[name])
        note = f"CPU; wall {theirs[0] / wall:.1f} x; {about}; {name}: {theirs[0]:.2f} s, {theirs[1]:.2f} s CPU"
        title = re.sub(r"\W+", "_", f"metrics_{kind}_vs_{name}")
        figure(title, theirs[1] / cpu, ">=", goal, "x", ROUNDS, note)


def test_memory_is_bounded_by_the_block(figure: Figure) -> None:
    """800 queries (CIRCO's test split) need 395 MB of scores at once; blocks of 64 MB do not."""
    case = made_up("circo", 800, 123_403)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    blocks = score_blocks(case.queries, case.gallery, "circo", 64 << 20)
    largest = max(block.scores_BG.nbytes for _, block in blocks) / 1e6
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = f"the peak of the process grew by {max(0.0, after - before):.0f} MB"
    figure("score_block", largest, "<=", 68, "MB", note=note)
