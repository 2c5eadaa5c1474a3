"""From features in memory to metrics: this project's way beside the plain one (sort everything, compare names).

Both ways run in turn in one process on made-up benchmarks of the official sizes, and must give the same numbers.
The plain way is how the public evaluators are written: an array of names per query, sorted by distance.
"""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from zscir.benchmarks.bench import GalleryBenchmark
from zscir.benchmarks.circo import Circo
from zscir.benchmarks.cirr import Cirr
from zscir.benchmarks.fashioniq import FashionIQ
from zscir.benchmarks.query import Query
from zscir.benchmarks.similarity import score_blocks

WIDTH = 768
ROUNDS = 3
Features = NDArray[np.float32]


@dataclass
class Case:
    bench: GalleryBenchmark
    queries: Features
    gallery: Features


def made_up(kind: str, queries: int, images: int) -> Case:
    """Queries halfway between noise and their first target."""
    rng = np.random.default_rng(0)
    names = [str(1_000_000 + n) for n in range(images)]
    gallery = rng.standard_normal((images, WIDTH), dtype=np.float32)
    asked, vectors = [], rng.standard_normal((queries, WIDTH), dtype=np.float32)
    for number in range(queries):
        reference, *others = (names[i] for i in rng.choice(images, 6, replace=False))
        targets = tuple(others[:4]) if kind == "circo" else (others[0],)
        excluded = (reference,) if kind == "cirr" else ()
        asked.append(Query(str(number), reference, ("a", "b"), targets, excluded, tuple(others)))
        vectors[number] += 0.1 * gallery[int(targets[0]) - 1_000_000]
    if kind == "circo":
        return Case(Circo("val", "official", asked, names), vectors, gallery)
    if kind == "cirr":
        return Case(Cirr("val", "official", asked, names), vectors, gallery)
    return Case(FashionIQ("val", "original", asked, names, kind), vectors, gallery)


def unit(features: Features) -> Features:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def plain(case: Case) -> dict[str, float]:
    """Sort all distances, turn them into names, compare names."""
    distances = 1 - unit(case.queries) @ unit(case.gallery).T
    names = np.array(case.bench.gallery)
    ranked = names[np.argsort(distances, axis=-1, kind="stable")]
    if case.bench.name == "cirr":
        references = np.array([query.reference for query in case.bench.queries])
        ranked = ranked[ranked != references[:, None]].reshape(len(ranked), -1)
    targets = np.array([query.targets[0] for query in case.bench.queries])
    labels = ranked == targets[:, None]
    found = {f"R@{cut}": 100 * labels[:, :cut].sum() / len(labels) for cut in (1, 5, 10, 50)}
    if case.bench.name == "cirr":
        members = np.array([query.subset for query in case.bench.queries])
        kept = (ranked[..., None] == members[:, None, :]).any(axis=-1)
        inside = labels[kept].reshape(len(labels), -1)
        found |= {f"Rsub@{cut}": 100 * inside[:, :cut].sum() / len(labels) for cut in (1, 2, 3)}
    return found


def plain_circo(case: Case) -> dict[str, float]:
    """One product, one sort and one array of names per query."""
    gallery = unit(case.gallery)
    precisions: dict[int, list[float]] = {5: [], 10: [], 25: [], 50: []}
    for query, vector in zip(case.bench.queries, unit(case.queries), strict=True):
        best = np.argsort(1 - gallery @ vector, kind="stable")[:50]
        ranked = np.array(case.bench.gallery)[best]
        hits = np.isin(ranked, query.targets)
        gains = np.cumsum(hits) * hits / np.arange(1, 51)
        for cut, values in precisions.items():
            values.append(gains[:cut].sum() / min(cut, len(query.targets)))
    return {f"mAP@{cut}": 100 * float(np.mean(values)) for cut, values in precisions.items()}


def clocked(work: Callable[[], dict[str, float]]) -> tuple[float, float, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


@pytest.mark.parametrize(
    ("kind", "queries", "images", "goal"),
    [("cirr", 4181, 2297, 8.0), ("dress", 2017, 3817, 4.0), ("shirt", 2038, 6346, 4.0), ("circo", 220, 123_403, 10.0)],
)
def test_features_to_metrics(kind: str, queries: int, images: int, goal: float) -> None:
    case = made_up(kind, queries, images)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    products: list[float] = []
    for _ in range(ROUNDS):
        *times, result = clocked(lambda: case.bench.score_features(case.queries, case.gallery))
        ours.append((times[0], times[1]))
        *times, expected = clocked(lambda: (plain_circo if kind == "circo" else plain)(case))
        theirs.append((times[0], times[1]))
        products.append(clocked(lambda: {"": float((case.queries @ case.gallery.T)[0, 0])})[1])
        assert {metric: result[metric] for metric in expected} == pytest.approx(expected, abs=1e-9)
    wall, cpu = (min(column) for column in zip(*ours, strict=True))
    plain_wall, plain_cpu = (min(column) for column in zip(*theirs, strict=True))
    sys.stdout.write(
        f"\n{kind} {queries} x {images} x {WIDTH}: {wall:.2f} s wall, {cpu:.2f} s CPU; plain {plain_wall:.2f} s, "
        f"{plain_cpu:.2f} s; ratio {plain_wall / wall:.1f} wall, {plain_cpu / cpu:.1f} CPU; "
        f"{cpu / min(products):.2f} x the matrix product alone"
    )
    assert plain_cpu / cpu > goal


def test_memory_is_bounded_by_the_block() -> None:
    """800 queries (CIRCO's test split) need 395 MB of scores at once; blocks of 64 MB do not."""
    case = made_up("circo", 800, 123_403)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    largest = max(scores.nbytes for _, scores in score_blocks(case.queries, case.gallery, "circo", 64 << 20)) / 1e6
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"\nlargest block {largest:.0f} MB, peak of the process grew by {max(0.0, after - before):.0f} MB")
    assert largest < 68
