from pathlib import Path
from typing import Any

import pytest

from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.leaderboard import (
    LeaderboardEntry,
    leaderboard_latex,
    leaderboard_markdown,
    measured_entries,
    metrics_by_group,
    published_entries,
    ranked,
)
from zscir.runtime.errors import RequestError

SHIPPED = Path(__file__).resolve().parents[2] / "data_specs" / "published"
CIRR = ComparisonGroup("cirr", "test1", "official")


def row(benchmark: str, protocol: str, value: float, metric: str = "R@1", split: str = "val") -> dict[str, Any]:
    who = {"method": "mine", "backbone": "tiny"}
    return {
        "benchmark": benchmark,
        "split": split,
        "protocol": protocol,
        "metric": metric,
        "value": value,
        "n": 9,
        **who,
    }


def test_shipped_rows_have_a_source_and_their_protocol() -> None:
    entries = published_entries(SHIPPED)
    assert len(entries) > 150
    assert all(entry.source for entry in entries)
    by_name = {(entry.method, entry.backbone, entry.group.benchmark): entry for entry in entries}
    assert by_name["Pic2Word", "CLIP ViT-L/14", "cirr"].values == {"R@1": 23.9, "R@5": 51.7, "R@10": 65.3, "R@50": 87.8}
    assert by_name["Pic2Word", "CLIP ViT-L/14", "cirr"].second_hand
    assert by_name["MagicLens-L", "CLIP ViT-L/14", "circo"].group.protocol == "official, shared_concept"
    pli = by_name["PLI (v1, ImageNet)", "CLIP ViT-L/14", "fashioniq/mean"]
    assert (pli.group.protocol, pli.values["R@10"]) == ("pli_orders", 35.39)
    assert by_name["PLI (v1, ImageNet)", "CLIP ViT-L/14", "circo"].group.protocol == "reference_excluded"


def test_means_of_published_categories_are_the_published_means() -> None:
    """A check against slips in copying: three categories must average to the mean beside them."""
    entries = published_entries(SHIPPED)
    for entry in entries:
        parts = [
            other for other in entries
            if other.group.benchmark in ("fashioniq/dress", "fashioniq/shirt", "fashioniq/toptee")
            and (other.method, other.backbone, other.source) == (entry.method, entry.backbone, entry.source)
        ]  # fmt: skip
        if entry.group.benchmark == "fashioniq/mean" and len(parts) == 3:
            for metric, value in entry.values.items():
                assert sum(part.values[metric] for part in parts) / 3 == pytest.approx(value, abs=0.11), entry.method


def test_published_recalls_and_precisions_grow_with_k_but_for_the_one_that_is_noted() -> None:
    for entry in published_entries(SHIPPED):
        for prefix in ("R@", "Rsub@", "mAP@"):
            values = [value for metric, value in entry.values.items() if metric.startswith(prefix)]
            if not entry.note.startswith("its mAP@5 exceeds"):
                assert values == sorted(values), entry


def test_our_scores_stand_in_their_own_sheets() -> None:
    entries = measured_entries([
        row("cirr", "official/tscir/clip", 30.0), row("cirr", "official/tscir/clip", 60.0, "R@5"),
        row("circo", "official/shared_concept/clip", 12.0, "mAP@5"), row("circo", "official/pli/clip", 10.0, "mAP@5"),
    ])  # fmt: skip
    assert [(entry.group.title, dict(entry.values)) for entry in entries] == [
        ("cirr val (official)", {"R@1": 30.0, "R@5": 60.0}),
        ("circo val (official, shared_concept)", {"mAP@5": 12.0}),
        ("circo val (official)", {"mAP@5": 10.0}),
    ]
    assert entries[0].note == "texts tscir, preprocessing clip"
    assert len(metrics_by_group(entries)) == 3


def test_the_best_comes_first_and_who_has_no_number_last() -> None:
    entries = [LeaderboardEntry(CIRR, name, "B", values) for name, values in
               [("low", {"R@1": 1.0}), ("none", {"R@5": 9.0}), ("high", {"R@1": 2.0})]]  # fmt: skip
    assert [entry.method for entry in ranked(entries, CIRR, "R@1")] == ["high", "low", "none"]
    assert "| high | B | 2.0 | - |" in leaderboard_markdown(entries)


def test_second_hand_rows_are_marked_and_ours_are_bold() -> None:
    entries = [
        LeaderboardEntry(CIRR, "theirs", "B", {"R@1": 3.0}, "a paper", second_hand=True),
        *measured_entries([row("cirr", "official", 2.0)]),
    ]
    text = leaderboard_markdown(entries)
    assert "| theirs † | B | 3.0 | a paper |" in text
    assert "| **mine** | tiny | 2.00 (n 9) | this run |" in text
    assert r"\textbf{mine} & tiny & 2.00 (n 9) \\" in leaderboard_latex(entries)
    assert r"theirs $\dagger$ & B & 3.0 \\" in leaderboard_latex(entries)


def test_names_from_outside_stay_text() -> None:
    entries = [LeaderboardEntry(CIRR, "<script>alert(1)</script>|%_&", "B#{}", {"R@1": 3.0}, "<img src=x>", "~^")]
    assert "&lt;script>alert(1)&lt;/script>\\|" in leaderboard_markdown(entries)
    assert r"\%\_\& & B\#\{\}" in leaderboard_latex(entries)


def test_hits_n_and_the_interval_stand_beside_each_of_our_numbers() -> None:
    more = {"hits": 3, "low": 10.04, "high": 61.0, "control": "sum"}
    (entry,) = measured_entries(
        [row("cirr", "official/pli/clip", 33.333) | more, row("cirr", "official/pli/clip", 20.0, "R@5")]
    )
    assert entry.control == "sum"
    assert entry.counts_and_interval("R@1") == ("3/9", "10.0 to 61.0")
    assert entry.counts_and_interval("R@5") == ("n 9", "")
    assert "| 33.33 (3/9) [10.0 to 61.0] | 20.00 (n 9) |" in leaderboard_markdown([entry])
    assert "33.33 (3/9) [10.0 to 61.0] & 20.00 (n 9)" in leaderboard_latex([entry])


def test_a_control_is_known_by_its_column_or_in_rows_without_it_by_its_label() -> None:
    bare = row("cirr", "official/none/clip", 1.0) | {"method": "image only"}
    bounded = bare | {"low": 0.0, "high": 2.0, "hits": 1}
    rows = (bare, bounded | {"control": None}, bounded | {"control": "sum"})
    assert [measured_entries([scored])[0].control for scored in rows] == ["image", None, "sum"]


def test_two_seeds_of_one_method_are_two_rows_and_the_better_hides_nothing() -> None:
    keys = ("a" * 64, "b" * 64)
    rows = [row("cirr", "official/pli/clip", value) | {"artifact_key": key}
            for value, key in zip((20.0, 30.0), keys, strict=True)]  # fmt: skip
    found = measured_entries(rows)
    assert [(entry.values["R@1"], entry.source) for entry in found] == [
        (20.0, "evaluation aaaaaaaaaaaa"), (30.0, "evaluation bbbbbbbbbbbb"),
    ]  # fmt: skip


def test_of_ours_only_what_the_literature_prints_is_shown() -> None:
    rows = [
        row("circo", "official/pli/clip", 1.0, metric) for metric in ("semantic_mAP@10/negation", "mAP@10", "mAP@5")
    ]
    theirs = LeaderboardEntry(ComparisonGroup("circo", "val", "official"), "theirs", "B", {"mAP@25": 9.0, "odd@3": 1.0})
    assert list(metrics_by_group([theirs, *measured_entries(rows)]).values()) == [
        ["mAP@5", "mAP@10", "mAP@25", "odd@3"]
    ]
    assert list(metrics_by_group(measured_entries([row("cirr", "soft", 1.0, "softR@1")])).values()) == [["softR@1"]]


def test_whole_benchmarks_stand_before_their_parts() -> None:
    names = ("genecis/mean", "fashioniq/dress", "circo", "fashioniq/mean", "cirr")
    entries = [LeaderboardEntry(ComparisonGroup(name, "val", "official"), "m", "B", {"R@1": 1.0}) for name in names]
    order = ["fashioniq/mean", "cirr", "circo", "genecis/mean", "fashioniq/dress"]
    assert [sheet.benchmark for sheet in metrics_by_group(entries)] == order


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("methods = [", "cannot be read"),
        ("[[methods]]\nname = 'a'", r"methods\[0\]: a method needs a 'name' and a 'source'"),
        ("[[methods]]\nname = 'a'\nsource = 'b'\ncirr = {'R@1' = 1.0}", "a has no 'backbone'"),
        ("backbone = 'x'\n[[methods]]\nname = 'a'\nsource = 'b'\nflickr = {'R@1' = 1.0}", "unknown key 'flickr'"),
        ("backbone = 'x'\n[[methods]]\nname = 'a'\nsource = 'b'\ncirr = {'R@1' = 120.0}", "expected metric -> percent"),
        ("backbone = 'x'\n[[methods]]\nname = 'a'\nsource = 'b'\ncirr = 3.0", "expected metric -> percent"),
    ],
)
def test_a_published_file_with_a_slip_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(RequestError, match=words):
        published_entries(tmp_path)
