"""zscir report: write one HTML page about a run."""

from zscir.cli.engine import open_checked_store
from zscir.cli.options import OutOption, RunArgument, StoreOption
from zscir.cli.output import print_lines


def report_command(run_id: RunArgument, store_uri: StoreOption = None, out: OutOption = None) -> None:
    """Write one self-contained HTML page about a run.

    Example: zscir report latest --out report.html
    """
    from zscir.report.page import write_report

    print_lines(str(write_report(open_checked_store(store_uri), run_id, out)))
