"""zscir demo: the tabletop pipeline from end to end, its scores and its report."""

from zscir.cli.engine import execute_request, open_checked_store, print_run
from zscir.cli.options import JsonOption, SetOption, StoreOption
from zscir.cli.output import print_lines, print_rows
from zscir.runtime.settings import data_specs

DEMO_PIPELINE = "tabletop.toml"


def demo_command(store_uri: StoreOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """The tabletop world end to end: download, triplets, training, scores, report.

    Example: zscir demo
    """
    from zscir.pipeline.execute import RunRequest
    from zscir.report.page import write_report
    from zscir.report.scores import headline_score_remarks, headline_score_rows

    store = open_checked_store(store_uri)
    run = execute_request(store, RunRequest(data_specs() / "pipelines" / DEMO_PIPELINE, changes or [], trigger="demo"))
    page = write_report(store, run.run_id, None)
    if not as_json:
        print_run(run, as_json)
    print_rows(headline_score_rows(store, run.run_id), as_json, "scores (percent)")
    if not as_json:
        for remark in headline_score_remarks(store, run.run_id):
            print_lines(remark)
        print_lines(f"report: {page}")
