import pytest

from tests.support.small_run import BENCHMARKS, EvaluateSpec, RecordedRun, evaluate, new_store, shared_store
from zscir.report.lambda_curves import lambda_charts
from zscir.report.run_data import read_record
from zscir.stages.tabletop_benchmarks import tabletop_benchmarks


def test_every_validation_benchmark_has_a_chart_with_its_protocol() -> None:
    (found,) = lambda_charts(read_record(shared_store(), "latest"))
    assert [(panel.title, panel.about) for panel in found.panels] == [
        ("CIRR R@1", "official, texts pli, clip"), ("FashionIQ R@10", "original, texts pli, clip"),
    ]  # fmt: skip
    assert [(key.method, key.colour, key.chosen) for key in found.lines] == [("sum, lambda 0.4, tuned", 1, 0.4)]
    assert found.remark == ""
    for panel in found.panels:
        assert "CIRR R@1 by lambda" in panel.svg or "FashionIQ R@10 by lambda" in panel.svg


def test_the_numbers_behind_a_chart_stand_below_it() -> None:
    (found,) = lambda_charts(read_record(shared_store(), "latest"))
    cirr = found.panels[0]
    assert cirr.columns == ("sum, lambda 0.4, tuned",)
    assert [weight for weight, _ in cirr.rows] == [0.0, 0.2, 0.4, 0.8]
    assert [values[0] for _, values in cirr.rows] == pytest.approx([15.2, 18.8, 20.0, 15.2])


def test_methods_are_drawn_beside_the_untrained_sum_and_a_remark_says_when_it_is_missing() -> None:
    evaluations = [
        EvaluateSpec(method="pli: sum", skill=0.3, weights=(0.0, 1.0)),
        EvaluateSpec(method="sum, lambda 0.4", skill=0.2, control="sum", weights=(0.0, 0.5, 1.0)),
    ]
    for name, specs, remark in (("alone", evaluations[:1], True), ("beside", evaluations, False)):
        run = RecordedRun(new_store(f"lambda-{name}"), "20260101-000000-aaaaaa")
        world = run.step("tabletop_benchmarks", tabletop_benchmarks, BENCHMARKS)
        for number, spec in enumerate(specs):
            run.step(f"score_{number}", evaluate, spec, benchmarks=world)
        (found,) = lambda_charts(read_record(run.store, "latest"))
        assert found.remark.startswith("CONTROLS MISSING") == remark
        assert found.panels[0].columns == tuple(spec.method for spec in specs)
    assert found.panels[0].rows[1] == (0.5, (None, pytest.approx(19.7)))


def test_a_run_that_tuned_nothing_has_no_chart() -> None:
    run = RecordedRun(new_store("untuned"), "20260101-000000-aaaaaa")
    assert lambda_charts(read_record(run.store, "latest")) == []
