"""The registry agrees with what is written elsewhere about each benchmark: its facts and its published numbers."""

import pytest

from zscir.benchmarks.comparability import EASIER_TEXTS
from zscir.benchmarks.leaderboard import published_entries
from zscir.benchmarks.registry import (
    BENCHMARKS,
    benchmark_info,
    benchmark_order,
    info_of_label,
    is_whole_benchmark,
    whole_benchmark_order,
)
from zscir.runtime.settings import data_specs
from zscir.runtime.specs import read_toml


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_facts_of_a_benchmark_name_the_protocols_and_files_of_its_record(name: str) -> None:
    info, facts = benchmark_info(name), read_toml(data_specs() / "benchmarks" / f"{name}.toml")
    assert facts["name"] == info.name == name
    assert tuple(facts["protocols"]) == info.protocols
    assert any(file in facts["sha256"] for part in info.parts for file in info.annotation_files("val", part))


def test_published_metrics_are_those_of_the_literature() -> None:
    for entry in published_entries(data_specs() / "published"):
        info = info_of_label(entry.group.benchmark)
        assert info is not None
        assert set(info.literature_metrics) & set(entry.values), entry
        assert entry.group.ranking in info.protocols, entry
        assert entry.group.texts in ("", *EASIER_TEXTS), entry


def test_labels_stand_in_the_order_of_the_literature_and_unknown_ones_last() -> None:
    labels = ["other", "genecis/mean", "circo", "fashioniq/dress", "cirr", "fashioniq/mean"]
    named = ["fashioniq/dress", "fashioniq/mean", "cirr", "circo", "genecis/mean", "other"]
    assert sorted(labels, key=benchmark_order) == named
    whole = ["fashioniq/mean", "cirr", "circo", "genecis/mean"]
    assert [label for label in named if is_whole_benchmark(label)] == whole
    assert sorted(labels, key=whole_benchmark_order)[:4] == whole
    assert info_of_label("other/part") is None
