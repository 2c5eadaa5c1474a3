"""The gates of a run as its page shows them."""

from contextlib import suppress

from tests.support.small_run import shared_store
from tests.support.toy_pipelines import STEPS, run_toy, write_toy
from tests.support.toys import store_at
from zscir.report.checks_table import check_table_rows
from zscir.report.formatting import EMPTY_VALUE
from zscir.report.page import write_report
from zscir.report.run_data import read_record
from zscir.runtime.errors import GateError

GATES = """
[steps.gates]
counts = ["pairs <= urls.pairs"]
text_chars = { warn_above = 5 }
duplicate_text_share = { fail_above = 1 }
"""


def test_what_failed_stands_first_then_what_warned(tmp_path):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    path = write_toy(tmp_path / "specs", STEPS + GATES)
    with suppress(GateError):
        run_toy(store, path)
    found = check_table_rows(read_record(store, "latest"))
    assert [(row.step, row.metric, row.verdict) for row in found] == [
        ("ingest", "rows of pairs", "fail"), ("ingest", "text chars", "warn"),
        ("ingest", "duplicate text share", "pass"),
    ]  # fmt: skip
    assert (found[0].value, found[0].reference, found[0].threshold) == ("40", EMPTY_VALUE, "pairs <= urls.pairs")
    assert found[1].threshold == "warn above = 5"
    page = write_report(store, "latest", tmp_path / "page.html").read_text()
    assert "pairs &lt;= urls.pairs" in page
    assert '<span class="pill fail">fail</span>' in page
    assert "a data gate failed" in page


def test_a_run_without_gates_says_so():
    assert check_table_rows(read_record(shared_store(), "latest")) == []
