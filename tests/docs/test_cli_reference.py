"""docs/cli.md is what the commands say of themselves, whatever the terminal."""

import shlex

import pytest
import typer

from tests.docs.pages import ROOT
from zscir.cli.main import app
from zscir.cli.reference import PAGE, command_functions, parameters_of, reference

TREE = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # the app is a group


def test_the_committed_page_is_the_generated_one() -> None:
    committed = (ROOT / PAGE).read_text(encoding="utf-8")
    assert committed == reference(), "a command changed: python -m zscir.cli.reference --write"


@pytest.mark.parametrize("columns", ["40", "300"])
def test_the_page_does_not_depend_on_the_width_of_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = reference()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERMINAL_WIDTH", columns)
    assert reference() == before


@pytest.mark.parametrize("name", sorted(TREE))
def test_the_page_has_every_argument_and_option_that_typer_parses(name: str) -> None:
    section = reference().split(f"## zscir {name}\n")[1].split("\n## ")[0]
    for parameter in TREE[name].params:
        is_option = parameter.param_type_name == "option"
        words = [*parameter.opts, *parameter.secondary_opts] if is_option else [str(parameter.name).upper()]
        assert [word for word in words if word != "--help" and f"`{word}`" not in section] == []
    assert len(parameters_of(command_functions()[name])) == len(TREE[name].params)


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_command_has_an_example_that_parses(name: str) -> None:
    section = reference().split(f"## zscir {name}\n")[1].split("\n## ")[0]
    examples = [line.removeprefix("Example: `")[:-1] for line in section.splitlines() if line.startswith("Example: ")]
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[:2] == ["zscir", name]
        TREE[name].make_context(name, words[2:])
