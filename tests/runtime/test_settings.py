from pathlib import Path

import pytest

from zscir.runtime.errors import RequestError
from zscir.runtime.settings import Settings, data_specs, spec_path


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ZSCIR_CACHE", str(tmp_path / "mine"))
    assert Settings.from_env().cache == tmp_path / "mine"
    monkeypatch.delenv("ZSCIR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Settings.from_env().cache == tmp_path / "xdg" / "zscir"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_env().cache == tmp_path / ".cache" / "zscir"


def test_shipped_specs_are_found_from_anywhere_and_ones_own_come_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shipped = spec_path("data_specs/pipelines/tabletop.toml")
    assert shipped == data_specs() / "pipelines" / "tabletop.toml"
    assert shipped.exists()
    own = tmp_path / "data_specs" / "pipelines" / "tabletop.toml"
    own.parent.mkdir(parents=True)
    own.write_text("name = 'mine'")
    assert spec_path("data_specs/pipelines/tabletop.toml") == Path("data_specs/pipelines/tabletop.toml")


def test_a_path_that_is_not_shipped_is_left_as_it_is():
    assert spec_path("data_specs/no/such.toml") == Path("data_specs/no/such.toml")
    assert spec_path("my/pipeline.toml") == Path("my/pipeline.toml")


def test_patience_and_lease_are_seconds_of_the_environment(monkeypatch):
    monkeypatch.delenv("ZSCIR_PATIENCE_S", raising=False)
    monkeypatch.delenv("ZSCIR_LEASE_S", raising=False)
    assert (Settings.from_env().store_retry_s, Settings.from_env().lease_s) == (120.0, 60.0)
    monkeypatch.setenv("ZSCIR_PATIENCE_S", "0")
    monkeypatch.setenv("ZSCIR_LEASE_S", "7.5")
    assert (Settings.from_env().store_retry_s, Settings.from_env().lease_s) == (0.0, 7.5)


def test_the_number_of_ranks_is_one_unless_the_environment_says_more(monkeypatch):
    monkeypatch.delenv("ZSCIR_RANKS", raising=False)
    assert Settings.from_env().ranks == 1
    monkeypatch.setenv("ZSCIR_RANKS", "8")
    assert Settings.from_env().ranks == 8
    monkeypatch.setenv("ZSCIR_RANKS", "auto")
    assert Settings.from_env().ranks is None


@pytest.mark.parametrize(
    ("name", "given"), [("ZSCIR_PATIENCE_S", "-1"), ("ZSCIR_LEASE_S", "0.5"), ("ZSCIR_LEASE_S", "a minute"),
                        ("ZSCIR_LEASE_S", "nan"), ("ZSCIR_PATIENCE_S", "inf")]
)  # fmt: skip
def test_a_number_of_seconds_that_makes_no_sense_is_refused(monkeypatch, name, given):
    monkeypatch.setenv(name, given)
    with pytest.raises(RequestError, match=f"{name} = '{given}': a number of seconds from"):
        Settings.from_env()
