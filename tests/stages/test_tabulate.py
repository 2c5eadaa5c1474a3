import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from zscir.artifacts import Artifact
from zscir.records import SCORES, write_table
from zscir.stages.tabulate import INTERVALS, PER_QUERY, TabulateSpec, tabulate

WHO = ["method", "backbone", "texts", "preprocessing"]


def evaluation(folder: Path, *numbers: tuple[str, str, str, float, int], method: str = "pli") -> Artifact:
    """An evaluation's scores from (benchmark, protocol, metric, value, n)."""
    folder.mkdir(parents=True)
    rows = [
        {"benchmark": benchmark, "split": "val", "protocol": protocol, "method": method, "backbone": "B/32",
         "metric": metric, "value": value, "n": n}
        for benchmark, protocol, metric, value, n in numbers
    ]  # fmt: skip
    write_table(folder / "scores.parquet", SCORES, rows)
    return Artifact.of_folder(folder)


def table(out: Path, *scores: Artifact, **asked: Any) -> str:
    out.mkdir()
    tabulate(TabulateSpec.parse(asked, "test"), scores=list(scores), out=out)
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
        [*WHO, "cirr val (official) R@1 (n 4181)", "circo val (official) mAP@5 (n 220)"],
        ["---", "---", "---", "---", "---:", "---:"],
        ["pli", "B/32", "pli", "clip", "25.00", "**9.50**"],
        ["tscir", "B/32", "tscir", "clip", "**30.12**", "-"],
    ]  # fmt: skip


def test_two_protocols_never_share_a_column(tmp_path: Path) -> None:
    original = evaluation(tmp_path / "a", ("fashioniq/mean", "original/pli/clip", "R@10", 30.0, 6016))
    union = evaluation(tmp_path / "b", ("fashioniq/mean", "val/pli/clip", "R@10", 40.0, 6016))
    easier = evaluation(tmp_path / "c", ("circo", "official/shared_concept/clip", "mAP@5", 20.0, 220))
    usual = evaluation(tmp_path / "d", ("circo", "official/searle/clip", "mAP@5", 10.0, 220))
    head, _, *body = section(table(tmp_path / "o", original, union, easier, usual), "# Scores")
    assert head[4:] == [
        "fashioniq/mean val (original) R@10 (n 6016)", "fashioniq/mean val (val) R@10 (n 6016)",
        "circo val (official) mAP@5 (n 220)", "circo val (official, shared_concept) mAP@5 (n 220)",
    ]  # fmt: skip
    assert [[i for i, cell in enumerate(row[4:]) if cell != "-"] for row in body] == [[0], [1], [3], [2]]


def test_another_number_of_queries_is_shown_in_the_cell(tmp_path: Path) -> None:
    whole = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 25.0, 4181))
    part = evaluation(tmp_path / "b", ("cirr", "official", "R@1", 26.0, 4100))
    head, _, *body = section(table(tmp_path / "o", whole, part), "# Scores")
    assert head[4] == "cirr val (official) R@1"
    assert [row[4] for row in body] == ["25.00 (n 4181)", "**26.00** (n 4100)"]
    assert body[0][2:4] == ["-", "-"]


def test_intervals_stand_beside_the_numbers_where_they_are_known(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", ("cirr", "official", "R@1", 25.0, 100))
    rows = [{**pq.read_table(tmp_path / "a/scores.parquet").to_pylist()[0], "hits": 25, "low": 17.0, "high": 33.0}]
    write_table(tmp_path / "a/intervals.parquet", INTERVALS, rows)
    text = table(tmp_path / "o", Artifact.of_folder(tmp_path / "a"))
    assert section(text, "## cirr val (official)")[2][4] == "25.00 [17.0, 33.0]"
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
        "cirr val (official) R@1", "cirr val (official) R@1 n",
        "circo val (official) mAP@5", "circo val (official) mAP@5 n",
    ]  # fmt: skip
    assert first == ["'=1+1", "B/32", "-", "-", repr(100 / 3), "3", "", ""]
    assert second[4:] == ["", "", "5.0", "2"]


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
    evaluation(folder, ("cirr", protocol, "R@1", 100 * hits.count("1") / len(hits), len(hits)), method=method)
    rows = [
        {"benchmark": "cirr", "split": "val", "metric": "R@1", "query_id": str(n), "value": float(hit)}
        for n, hit in enumerate(hits)
    ]
    write_table(folder / "per_query.parquet", PER_QUERY, rows)
    return Artifact.of_folder(folder)


def test_methods_are_tested_in_pairs_on_the_same_queries(tmp_path: Path) -> None:
    one = with_hits(tmp_path / "a", "official/pli/clip", "1000000000", "one")
    two = with_hits(tmp_path / "b", "official/tscir/clip", "0111111110", "two")
    text = table(tmp_path / "o", one, two)
    (row,) = pq.read_table(tmp_path / "o/pairs.parquet").to_pylist()
    assert (row["first"], row["second"], row["won"], row["lost"], row["n"]) == (0, 1, 8, 1, 10)
    assert (row["difference"], row["p_value"]) == (70.0, 2 * (1 + 9) / 2**9)
    assert "| cirr val (official) R@1 | 2. two against 1. one | +70.00 | 8 / 1 of 10 | 0.039 |" in text


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
    text = table(tmp_path / "o", one, soft, fewer)
    assert pq.read_table(tmp_path / "o/pairs.parquet").num_rows == 0
    assert "Paired" not in text


def test_an_evaluation_without_answers_adds_a_line_and_no_number(tmp_path: Path) -> None:
    text = table(tmp_path / "o", evaluation(tmp_path / "a"))
    assert text.startswith("# Scores")
