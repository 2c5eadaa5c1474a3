from pathlib import Path

from zscir.settings import Settings, data_specs, spec_path


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
