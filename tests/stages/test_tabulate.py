import csv
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zscir.runtime.schemas import INTERVALS_SCHEMA, PER_QUERY_SCHEMA, SCORES_SCHEMA, write_table
from zscir.stages.tabulate import TabulateSpec, tabulate
from zscir.store.artifacts import Artifact

WHO = ["method", "backbone", "texts", "preprocessing"]


def evaluation(folder: Path, *numbers: tuple[str, str, str, float, int], method: str = "pli") -> Artifact:
    """An evaluation's scores from (benchmark, protocol, metric, value, n)."""
    folder.mkdir(parents=True)
    rows = [
        {"benchmark": benchmark, "split": "val", "protocol": protocol, "method": method, "backbone": "B/32",
         "metric": metric, "value": value, "n": n}
        for benchmark, protocol, metric, value, n in numbers
    ]  # fmt: skip
    write_table(folder / "scores.parquet", SCORES_SCHEMA, rows)
    return Artifact.of_folder(folder)


def table(out: Path, *scores: Artifact, **fields: Any) -> str:
    out.mkdir()
    tabulate(TabulateSpec.parse(fields, "test"), scores=list(scores), out=out)
    return (out / "table.md").read_text()


def section(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    body = text.split(f"{heading}\n\n")[1].split("\n\n")[0].strip()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]


def test_methods_are_rows_and_each_benchmark_and_metric_a_column(tmp_path: Path) -> None:
    one = evaluation(
        tmp_path / "a",
        ("cirr", "official/pli/clip", "R@1", 25.0, 4181),
        ("circo", "official/pli/clip", "mAP@5", 9.5, 220),
    )
    two = evaluation(tmp_path / "b", ("cirr", "official/tscir/clip", "R@1", 30.123, 4181), method="tscir")
    text = table(tmp_path / "o", one, two, title="Walk 7")
    assert section(text, "# Walk 7") == [
        [*WHO, "cirr val (official, clip) R@1 (n 4181)", "circo val (official, clip) mAP@5 (n 220)"],
        ["---", "---", "---", "---", "---:", "---:"],
        ["pli", "B/32", "pli", "clip", "25.00", "**9.50**"],
        ["tscir", "B/32", "tscir", "clip", "**30.12**", "-"],
    ]  # fmt: skip


def test_two_protocols_never_share_a_column(tmp_path: Path) -> None:
    original = evaluation(tmp_path / "a", ("fashioniq/mean", "original/pli/clip", "R@10", 30.0, 6016))
    union = evaluation(tmp_path / "b", ("fashioniq/mean", "val/pli/clip", "R@10", 40.0, 6016))
    easier = evaluation(tmp_path / "c", ("circo", "official/shared_concept/clip", "mAP@5", 20.0, 220))
    usual = evaluation(tmp_path / "d", ("circo", "official/searle/clip", "mAP@5", 10.0, 220))
    padded = evaluation(tmp_path / "e", ("circo", "official/searle/targetpad", "mAP@5", 11.0, 220))
    head, _, *body = section(table(tmp_path / "o", original, union, easier, usual, padded), "# Scores")
    assert head[4:] == [
        "fashioniq/mean val (original, clip) R@10 (n 6016)", "fashioniq/mean val (val, clip) R@10 (n 6016)",
        "circo val (official, clip) mAP@5 (n 220)", "circo val (official, shared_concept, clip) mAP@5 (n 220)",
        "circo val (official, targetpad) mAP@5 (n 220)",
    ]  # fmt: skip
    assert [[i for i, cell in enumerate(row[4:]) if cell != "-"] for row in body] == [[0], [1], [3], [2], [4]]


PROTOCOLS = [
    "/".join(parts)
    for parts in product(
        ("official", "soft", "official without 3 images"), ("pli", "tscir", "shared_concept"), ("clip", "targetpad")
    )
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(PROTOCOLS), min_size=1, max_size=6))
def test_no_column_of_any_table_ever_holds_two_protocols(protocols: list[str]) -> None:
    """Every number names its protocol by its value; in each table that is made, each column has one."""
    values = {protocol: 10.0 + number for number, protocol in enumerate(PROTOCOLS)}
    with tempfile.TemporaryDirectory() as folder:
        made = [
            evaluation(Path(folder) / f"e{number}", ("circo", protocol, "mAP@5", values[protocol], 220))
            for number, protocol in enumerate(protocols)
        ]
        text = table(Path(folder) / "o", *made)
        spread = list(csv.reader((Path(folder) / "o/table.csv").read_text().splitlines()))
    drawn = [block for block in text.split("\n\n") if block.startswith("|")]
    tables = [
        [[cell.strip("* ") for cell in line.strip("| ").split(" | ")] for line in table.splitlines()] for table in drawn
    ]
    for rows in (*tables, spread):
        for column in zip(*rows, strict=True):
            numbers = {
                float(cell.split(" ")[0]) for cell in column[1:] if cell[:2] in {"10", "11", "12"} or cell[:1] == "2"
            }
            found = [protocol for protocol, value in values.items() if value in numbers]
            assert len({comparable(protocol) for protocol in found}) <= 1
            assert all(
                one in column[0] or "circo val" not in column[0] for protocol in found for one in shown(protocol)
            )


def comparable(protocol: str) -> tuple[str, bool, str]:
    ranking, texts, preprocessing = protocol.split("/")
    return ranking, texts == "shared_concept", preprocessing


def shown(protocol: str) -> list[str]:
    ranking, texts, preprocessing = protocol.split("/")
    return [ranking, preprocessing, *([texts] if texts == "shared_concept" else [])]


def test_another_number_of_queries_is_shown_in_the_cell(tmp_path: Path) -> None:
    whole = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 25.0, 4181))
    part = evaluation(tmp_path / "b", ("cirr", "official", "R@1", 26.0, 4100))
    head, _, *body = section(table(tmp_path / "o", whole, part), "# Scores")
    assert head[4] == "cirr val (official) R@1"
    assert [row[4] for row in body] == ["25.00 (n 4181)", "**26.00** (n 4100)"]
    assert body[0][2:4] == ["-", "-"]


def test_intervals_stand_beside_the_numbers_where_they_are_known(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 25.0, 100))
    bounded = {"hits": 25, "low": 17.0, "high": 33.0, "control": None, "allow_missing": None}
    rows = [pq.read_table(tmp_path / "a/scores.parquet").to_pylist()[0] | bounded]
    write_table(tmp_path / "a/intervals.parquet", INTERVALS_SCHEMA, rows)
    text = table(tmp_path / "o", Artifact.of_folder(tmp_path / "a"))
    assert section(text, "## cirr val (official)")[2][4] == "25.00 [17.0, 33.0] (25/100)"
    assert section(text, "# Scores")[2][4] == "25.00"
    (row,) = pq.read_table(tmp_path / "o/table.parquet").to_pylist()
    assert (row["hits"], row["low"], row["ranking"], row["texts"]) == (25, 17.0, "official", "")
    assert one.files() == ["scores.parquet"]


def test_headline_metrics_come_first_and_parts_come_after_means(tmp_path: Path) -> None:
    numbers = [("cirr", "official", metric, 1.0, 4) for metric in ("Rsub@1", "mean(R@5,Rsub@1)", "R@50", "R@1")]
    numbers += [("fashioniq/shirt", "original", "R@10", 1.0, 4), ("fashioniq/mean", "original", "R@10", 1.0, 4)]
    text = table(tmp_path / "o", evaluation(tmp_path / "a", *numbers))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## fashioniq/mean val (original)", "## cirr val (official)", "## fashioniq/shirt val (original)",
    ]  # fmt: skip
    assert section(text, "## cirr val (official)")[0][4:] == [
        "R@1 (n 4)", "R@50 (n 4)", "Rsub@1 (n 4)", "mean(R@5,Rsub@1) (n 4)",
    ]  # fmt: skip


def test_the_csv_holds_full_numbers_with_their_n(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 100 / 3, 3), method="=1+1")
    two = evaluation(tmp_path / "b", ("circo", "official", "mAP@5", 5.0, 2))
    table(tmp_path / "o", one, two)
    head, first, second = list(csv.reader((tmp_path / "o/table.csv").read_text().splitlines()))
    assert head[4:] == [
        "cirr val (official) R@1", "cirr val (official) R@1 hits", "cirr val (official) R@1 n",
        "circo val (official) mAP@5", "circo val (official) mAP@5 hits", "circo val (official) mAP@5 n",
    ]  # fmt: skip
    assert first == ["'=1+1", "B/32", "-", "-", repr(100 / 3), "", "3", "", "", ""]
    assert second[4:] == ["", "", "", "5.0", "", "2"]


def test_labels_cannot_break_out_of_the_table(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 25.0, 1), method="a|b\n<script>")
    text = table(tmp_path / "o", one, title="<b>")
    assert "a\\|b &lt;script>" in text
    assert "<" not in text


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 25.0, 4181))
    for name in ("x", "y"):
        table(tmp_path / name, one)
    for name in ("table.md", "table.csv", "table.parquet"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def with_hits(folder: Path, protocol: str, hits: str, method: str) -> Artifact:
    """An evaluation of CIRR whose queries were answered (1) or not (0)."""
    return with_parts(folder, protocol, method, R1_cirr=hits)


def with_parts(folder: Path, protocol: str, method: str, mean: bool = False, **hits: str) -> Artifact:
    """As ``with_hits``, for parts: ``R10_fashioniq_dress="0110"``; with the ``mean`` over them where it is reported."""
    numbers, rows = [], []
    for name, own in hits.items():
        cut, _, part = name.partition("_")
        metric, benchmark = cut.replace("R", "R@"), part.replace("_", "/", 1)
        numbers.append((benchmark, protocol, metric, 100 * own.count("1") / len(own), len(own)))
        rows += [
            {"benchmark": benchmark, "split": "val", "metric": metric, "query_id": str(n), "value": float(hit)}
            for n, hit in enumerate(own)
        ]
    if mean:
        value = sum(number[3] for number in numbers) / len(numbers)
        numbers.append((numbers[0][0].split("/")[0] + "/mean", protocol, numbers[0][2], value, len(rows)))
    evaluation(folder, *numbers, method=method)
    write_table(folder / "per_query.parquet", PER_QUERY_SCHEMA, rows)
    return Artifact.of_folder(folder)


def pairs_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["benchmark"]: row for row in pq.read_table(out / "pairs.parquet").to_pylist()}


def test_categories_are_tested_one_by_one_and_together_as_the_benchmark_averages(tmp_path: Path) -> None:
    """In the mean a category of 4 queries weighs as much as one of 12; pooled, the difference would be 1/16."""
    before = {"R10_fashioniq_dress": "0000", "R10_fashioniq_shirt": "111100000000"}
    after = {"R10_fashioniq_dress": "1110", "R10_fashioniq_shirt": "100000000001"}
    one = with_parts(tmp_path / "a", "original/pli/clip", "one", mean=True, **before)
    two = with_parts(tmp_path / "b", "original/tscir/clip", "two", mean=True, **after)
    text = table(tmp_path / "o", one, two)
    found = pairs_of(tmp_path / "o")
    assert {name: (row["difference"], row["won"], row["lost"], row["n"]) for name, row in found.items()} == {
        "fashioniq/dress": (75.0, 3, 0, 4),
        "fashioniq/shirt": (pytest.approx(100 * -2 / 12), 1, 3, 12),
        "fashioniq/mean": (pytest.approx((75 - 100 * 2 / 12) / 2), 4, 3, 16),
    }
    assert found["fashioniq/dress"]["p_value"] == 0.25
    # 3 gains of 1/8, one of 1/24 and 3 losses of 1/24, under all 128 patterns of signs, in units of 1/24
    sums = [abs(sum(signs[:3]) * 3 + sum(signs[3:])) for signs in product((-1, 1), repeat=7)]
    exact = sum(total >= 3 * 3 + 1 - 3 for total in sums) / len(sums)
    assert found["fashioniq/mean"]["p_value"] == pytest.approx(exact, abs=0.025)
    columns = [cells[0] for cells in section(text, "corrected for many tests.")[2:]]
    assert columns == [f"fashioniq/{part} val (original, clip) R@10" for part in ("mean", "dress", "shirt")]


def test_without_a_mean_or_with_a_category_less_nothing_is_tested_together(tmp_path: Path) -> None:
    parts = {"R10_fashioniq_dress": "0011", "R10_fashioniq_shirt": "0101"}
    one = with_parts(tmp_path / "a", "original/pli/clip", "one", mean=True, **parts)
    no_mean = with_parts(tmp_path / "b", "original/pli/clip", "two", **parts)
    fewer = with_parts(tmp_path / "c", "original/pli/clip", "three", mean=True, R10_fashioniq_dress="0011")
    for number, other in enumerate((no_mean, fewer)):
        table(tmp_path / f"o{number}", one, other)
        assert "fashioniq/mean" not in pairs_of(tmp_path / f"o{number}")
        assert "fashioniq/dress" in pairs_of(tmp_path / f"o{number}")


def with_control(folder: Path, control: str | None, protocol: str, method: str = "m", **more: Any) -> Artifact:
    """An evaluation of CIRR that says which control it is."""
    evaluation(folder, ("cirr", protocol, "R@1", 25.0, 100), method=method)
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    bounded = {"hits": 25, "low": 17.0, "high": 33.0, "control": control, "allow_missing": None} | more
    write_table(folder / "intervals.parquet", INTERVALS_SCHEMA, [row | bounded for row in rows])
    return Artifact.of_folder(folder)


def stock(folder: Path, protocol: str = "official/{}/clip") -> list[Artifact]:
    kinds = {"image": "none", "text": "pli", "sum": "pli"}
    return [with_control(folder / kind, kind, protocol.format(texts)) for kind, texts in kinds.items()]


def test_a_table_without_controls_says_so(tmp_path: Path) -> None:
    image, text_only, added = stock(tmp_path)
    method = with_control(tmp_path / "m", None, "official/tscir/clip")
    whole = table(tmp_path / "a", image, text_only, added, method)
    assert "CONTROLS MISSING" not in whole
    fewer = table(tmp_path / "b", image, method)
    assert fewer.count("CONTROLS MISSING: no text only, no sum of B/32 in cirr val (official, clip).") == 2
    assert "CONTROLS MISSING: no image only, no text only, no sum of B/32" in table(tmp_path / "c", method)
    assert "CONTROLS MISSING" not in table(tmp_path / "d", image, added)  # nothing there that needs a control


def test_controls_of_another_backbone_or_preprocessing_do_not_count(tmp_path: Path) -> None:
    padded = with_control(tmp_path / "p", None, "official/pli/targetpad")
    text = table(tmp_path / "a", *stock(tmp_path / "s"), padded)
    assert "CONTROLS MISSING: no image only, no text only, no sum of B/32 in cirr val (official, targetpad)." in text
    other = with_control(tmp_path / "o", None, "official/pli/clip", backbone="L/14")
    assert "no sum of L/14 in cirr val (official, clip)" in table(tmp_path / "b", *stock(tmp_path / "t"), other)


def test_the_image_alone_is_a_control_beside_easier_texts_too(tmp_path: Path) -> None:
    kinds = {"image": "none", "text": "shared_concept", "sum": "shared_concept", None: "shared_concept"}
    made = [with_control(tmp_path / str(kind), kind, f"official/{texts}/clip") for kind, texts in kinds.items()]
    text = table(tmp_path / "a", *made)
    assert "CONTROLS MISSING" not in text
    assert len(section(text, "## cirr val (official, shared_concept, clip)")) == 2 + 4


def test_the_fact_counts_what_is_missing(tmp_path: Path) -> None:
    method = with_control(tmp_path / "m", None, "official/pli/clip")
    for number, (scores, facts) in enumerate([
        ([method], {"rows": 1, "evaluations": 1, "controls_missing": 1}),
        ([method, *stock(tmp_path / "s")], {"rows": 4, "evaluations": 4}),
    ]):  # fmt: skip
        (tmp_path / f"o{number}").mkdir()
        assert tabulate(TabulateSpec(), scores=scores, out=tmp_path / f"o{number}") == facts


def test_images_that_were_allowed_to_be_missing_are_reported_where_the_numbers_stand(tmp_path: Path) -> None:
    lacking = with_control(tmp_path / "a", "sum", "official without 2 images/pli/clip", allow_missing=5)
    lucky = with_control(tmp_path / "b", "sum", "official/pli/clip", allow_missing=3)
    text = table(tmp_path / "o", lacking, lucky)
    first, second = "cirr val (official without 2 images, clip)", "cirr val (official, clip)"
    assert text.count(f"allow_missing 5: {first} is not the whole benchmark.") == 2  # overview, and its own table
    assert text.count(f"allow_missing 3: {second} might lack images, but none was missing.") == 2
    assert {row["allow_missing"] for row in pq.read_table(tmp_path / "o/table.parquet").to_pylist()} == {3, 5}


def test_methods_are_tested_in_pairs_on_the_same_queries(tmp_path: Path) -> None:
    one = with_hits(tmp_path / "a", "official/pli/clip", "1000000000", "one")
    two = with_hits(tmp_path / "b", "official/tscir/clip", "0111111110", "two")
    text = table(tmp_path / "o", one, two)
    (row,) = pq.read_table(tmp_path / "o/pairs.parquet").to_pylist()
    assert (row["first"], row["second"], row["won"], row["lost"], row["n"]) == (0, 1, 8, 1, 10)
    assert (row["difference"], row["p_value"]) == (70.0, 2 * (1 + 9) / 2**9)
    assert "| cirr val (official, clip) R@1 | 2. two against 1. one | +70.00 | 8 / 1 of 10 | 0.039 |" in text


def test_the_table_shows_the_best_of_a_column_against_each_other(tmp_path: Path) -> None:
    hits = {"worst": "100000", "best": "111110", "middle": "111000"}
    evaluations = [with_hits(tmp_path / name, "official", own, name) for name, own in hits.items()]
    text = table(tmp_path / "o", *evaluations)
    assert section(text, "corrected for many tests.")[2:] == [
        ["cirr val (official) R@1", "2. best against 1. worst", "+66.67", "4 / 0 of 6", "0.12"],
        ["cirr val (official) R@1", "2. best against 3. middle", "+33.33", "2 / 0 of 6", "0.5"],
    ]
    assert pq.read_table(tmp_path / "o/pairs.parquet").num_rows == 3


def test_other_protocols_and_other_queries_are_never_paired(tmp_path: Path) -> None:
    one = with_hits(tmp_path / "a", "official/pli/clip", "1000", "one")
    soft = with_hits(tmp_path / "b", "soft/pli/clip", "0111", "two")
    fewer = with_hits(tmp_path / "c", "official/pli/clip", "011", "three")
    padded = with_hits(tmp_path / "d", "official/pli/targetpad", "1110", "four")
    text = table(tmp_path / "o", one, soft, fewer, padded)
    assert pq.read_table(tmp_path / "o/pairs.parquet").num_rows == 0
    assert "Paired" not in text


def test_an_evaluation_without_answers_adds_a_line_and_no_number(tmp_path: Path) -> None:
    text = table(tmp_path / "o", evaluation(tmp_path / "a"))
    assert text.startswith("# Scores")
