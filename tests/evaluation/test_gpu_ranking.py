"""Ranks on a torch device against those of the NumPy path; device "cpu" everywhere, "cuda" where there is one.

Features of +1 and -1 in 16 dimensions have exact cosines, so equal scores are equal on every device, and ties abound.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from zscir.benchmarks.circo import Circo
from zscir.benchmarks.cirr import Cirr, SoftCirr
from zscir.benchmarks.fashioniq import FashionIQ
from zscir.benchmarks.genecis import Genecis
from zscir.benchmarks.query import Query
from zscir.benchmarks.ranking import NumpyScoreBlock, Scorer, padded
from zscir.benchmarks.results import compute_results
from zscir.benchmarks.similarity import score_blocks
from zscir.cli.main import app
from zscir.evaluation import gpu_ranking as on_device
from zscir.evaluation.gpu_ranking import DeviceScoreBlock, device_scorer, scorer_for_device, scorer_from_name
from zscir.runtime.errors import RequestError

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]
WIDTH = 16
IDS = [str(n) for n in (7, 3, 9, 1, 8, 0, 5, 2, 6, 4, 11, 10)]  # gallery order is not the order of the names

levels = st.sampled_from([-1.0, -0.25, -0.0, 0.0, 0.25, 1e-30, 1.0])


@st.composite
def score_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and columns of them padded with -1."""
    width = draw(st.integers(1, 30))
    rows = draw(st.lists(st.lists(levels, min_size=width, max_size=width), min_size=1, max_size=6))
    columns = [draw(st.lists(st.integers(0, width - 1), max_size=4)) for _ in rows]
    return np.array(rows, dtype=np.float32), padded([*columns, [0] * 4])[:-1]


@pytest.mark.parametrize("device", DEVICES)
@given(score_rows(), st.integers(1, 40))
def test_a_device_answers_as_the_memory_does(device: str, made: tuple[np.ndarray, np.ndarray], k: int) -> None:
    scores, columns = made
    here, there = NumpyScoreBlock(scores), DeviceScoreBlock(torch.from_numpy(scores).to(device))
    real = columns >= 0
    assert len(there) == len(here)
    np.testing.assert_array_equal(there.values(columns)[real], here.values(columns)[real])
    np.testing.assert_array_equal(there.best(k), here.best(k))
    first = np.zeros(len(scores), dtype=np.int64)
    for ours, theirs in ((there, here), (there.with_lowest_score(first), here.with_lowest_score(first))):
        np.testing.assert_array_equal(ours.count_better(columns)[real], theirs.count_better(columns)[real])
        np.testing.assert_array_equal(ours.best(k), theirs.best(k))


def benchmarks_over(gallery: list[str], draw: st.DrawFn) -> Iterator[Any]:
    """Every kind of gallery benchmark over the same made-up queries."""
    queries = []
    for number in range(draw(st.integers(1, 5))):
        reference, *others = draw(st.permutations(gallery))
        targets, subset = tuple(others[: draw(st.integers(1, 4))]), tuple(draw(st.permutations(others[:5])))
        labels = tuple((name, draw(st.sampled_from([1.0, 0.5, -1.0]))) for name in [*others[:3], reference])
        queries.append(Query(str(number), reference, ("c", "d"), targets, (), subset, labels, ("negation",)))
    without = [Query(q.query_id, q.reference, q.captions, q.targets, (q.reference,), q.subset, q.soft) for q in queries]
    yield FashionIQ("val", "original", queries, gallery, "dress")
    yield Cirr("val", "official", without, gallery)
    yield SoftCirr("val", "soft", without, gallery)
    yield Circo("val", "official", queries, gallery)
    yield Circo("val", "reference_excluded", without, gallery)


@pytest.mark.parametrize("device", DEVICES)
@given(st.integers(6, len(IDS)), st.integers(0, 99), st.integers(1, 3), st.data())
@settings(max_examples=50)
def test_a_device_gives_the_same_metrics_rankings_and_submissions(
    device: str, images: int, seed: int, rows_at_once: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    looks = rng.choice([-1.0, 1.0], (5, WIDTH)).astype(np.float32)  # five looks for up to twelve images: copies
    gallery = looks[rng.integers(0, 5, images)] * rng.choice([0.5, 1.0, 4.0], (images, 1)).astype(np.float32)
    scorer = device_scorer(torch.device(device), block_bytes=4 * images * rows_at_once)
    for bench in data.draw(st.composite(lambda draw: list(benchmarks_over(IDS[:images], draw)))()):
        queries = rng.choice([-1.0, 1.0], (len(bench.queries), WIDTH)).astype(np.float32)
        assert bench.score_features(queries, gallery, scorer) == bench.score_features(queries, gallery)
        texts = [["t"]] * len(queries)
        here, there = (
            compute_results(bench, queries, gallery, texts),
            compute_results(bench, queries, gallery, texts, scorer),
        )
        assert (there.rankings, there.queries) == (here.rankings, here.queries)
        if not isinstance(bench, FashionIQ):
            assert bench.submission_features(queries, gallery, scorer) == bench.submission_features(queries, gallery)


@pytest.mark.parametrize("device", DEVICES)
def test_equal_images_tie_in_gallery_order_however_a_product_rounds(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_device, "DEVICE_GALLERY_ROWS", 700)
    monkeypatch.setattr(on_device, "DEVICE_COMPARED_AT_ONCE", 5000)
    monkeypatch.setattr(on_device, "SELECTED_AT_ONCE", 3000)
    rng = np.random.default_rng(4)
    looks = rng.standard_normal((300, 96)).astype(np.float32)
    which = rng.integers(0, 300, 2000)
    ids = [str(n) for n in range(2000)]
    queries = [Query(str(n), ids[n], ("t",), (ids[-1 - n],)) for n in range(50)]
    bench = Circo("val", "official", queries, ids)
    queries = rng.standard_normal((50, 96)).astype(np.float32)
    scorer = device_scorer(torch.device(device))
    assert bench.score_features(queries, looks[which], scorer) == bench.score_features(queries, looks[which])
    found = bench.submission_features(queries, looks[which], scorer)["circo_val.json"]
    assert found == bench.submission_features(queries, looks[which])["circo_val.json"]
    best = [which[column] for column in found["0"]]
    runs = [
        [column for column, look in zip(found["0"], best, strict=True) if look == same_look] for same_look in set(best)
    ]
    assert all(run == sorted(run) for run in runs)


@pytest.mark.parametrize("device", DEVICES)
def test_mapped_half_and_double_features_and_tiny_ones_score_as_here(device: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ids = [str(n) for n in range(200)]
    bench = Circo("val", "official", [Query(str(n), ids[n], ("t",), (ids[n + 9],)) for n in range(20)], ids)
    queries, gallery = rng.standard_normal((20, 8)), rng.standard_normal((200, 8))
    gallery[7] *= 1e-25
    for kind in (np.float64, np.float32, np.float16):
        made = queries.astype(kind), (gallery if kind != np.float16 else rng.standard_normal((200, 8))).astype(kind)
        np.save(tmp_path / "g.npy", made[1])
        mapped = np.load(tmp_path / "g.npy", mmap_mode="r")
        there = bench.score_features(made[0], mapped, device_scorer(torch.device(device)))
        assert there == bench.score_features(*made)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("value", "words"), [(0.0, r"\[40000\] holds only zeros"), (np.nan, r"\[40000\] holds NaN")])
def test_a_row_without_direction_is_refused_with_its_number(device: str, value: float, words: str) -> None:
    gallery = np.ones((40_010, 2), dtype=np.float32)
    gallery[40_000] = value
    with pytest.raises(RequestError, match=words):
        list(device_scorer(torch.device(device))(np.ones((1, 2), dtype=np.float32), gallery, "t"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("width", "count", "images"), [(33, 50, 5), (96, 50, 5), (257, 50, 5), (768, 17, 8193)])
def test_equal_images_tie_though_a_product_rounds_by_its_place(
    device: str, width: int, count: int, images: int
) -> None:
    rng = np.random.default_rng(7)
    image, queries = rng.standard_normal((1, width)), rng.standard_normal((count, width))
    scorer = device_scorer(torch.device(device))
    ((_, block),) = scorer(queries.astype(np.float32), np.repeat(image, images, axis=0), "t")
    values = block.values(np.tile(np.arange(images), (count, 1)))
    assert (values == values[:, :1]).all()
    assert (block.best(5) == np.arange(5)).all()


class Products(TorchDispatchMode):
    """Notes under which settings each matrix product is made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in str(func) or "matmul" in str(func):
            wished = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
            self.seen.append((*wished, args[0].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", DEVICES)
def test_products_are_float32_whatever_a_training_in_this_process_wished(device: str) -> None:
    rng = np.random.default_rng(6)
    query, gallery = rng.standard_normal((64, 768)).astype(np.float32), rng.standard_normal((500, 768))
    exact = np.concatenate([block.scores_BG for _, block in score_blocks(query, gallery, "t")])
    columns = np.tile(np.arange(500), (64, 1))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16), Products() as products:
            ((_, block),) = device_scorer(torch.device(device))(query, gallery, "t")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert products.seen == [("ieee", "ieee", torch.float32)]
    np.testing.assert_allclose(block.values(columns), exact, atol=1e-6)  # TF32 and bfloat16 miss by 1e-4 and more


def test_genecis_is_compared_here_whatever_the_scorer() -> None:
    rows = [["1", "2"], ["3", "1"]]
    queries = [Query(str(n), "9", ("color",), (row[0],)) for n, row in enumerate(rows)]
    bench = Genecis(queries, rows, "focus_object")

    def never(*_: Any) -> Iterator[Any]:
        raise AssertionError("a scorer was called")

    refused: Scorer = never
    made = np.eye(2, 4, dtype=np.float32), np.ones((2, 2, 4), dtype=np.float32)
    assert bench.score_features(*made, refused) == bench.score_features(*made)


def test_a_device_that_is_not_there_is_refused_with_what_to_do() -> None:
    assert scorer_from_name("cpu") is score_blocks
    assert scorer_for_device(torch.device("cpu")) is score_blocks
    for name in ("gpu", "cuda:x", "mps", ""):
        with pytest.raises(RequestError, match=r"no such device; give cpu, cuda"):
            scorer_from_name(name)
    with pytest.raises(RequestError, match=r"--device cuda:99: torch .* sees \d+ CUDA devices here; score on the CPU"):
        scorer_from_name("cuda:99")


def test_the_command_refuses_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    words = ["score", "cirr", "--root", tmp_path, "--queries", tmp_path / "q", "--gallery", tmp_path / "g"]
    done = CliRunner().invoke(app, [*map(str, words), "--device", "cuda:99"])
    assert isinstance(done.exception, RequestError)
    assert done.exception.exit_code == 2
    assert "--device cuda:99: torch" in str(done.exception)


@pytest.mark.gpu
@NO_CUDA
def test_scores_do_not_leave_the_gpu() -> None:
    ids = [str(n) for n in range(50)]
    bench = Circo("val", "official", [Query("0", "1", ("t",), ("2",))], ids)
    made = np.ones((1, 8), dtype=np.float32), np.random.default_rng(0).standard_normal((50, 8))
    ((_, block),) = bench.blocks(*made, scorer_from_name("cuda"))
    assert isinstance(block, DeviceScoreBlock)
    assert block.scores_BG.device.type == "cuda"
