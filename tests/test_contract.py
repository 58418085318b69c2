"""What others rely on: the public names, the direction of imports, a quick start."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import longtake
from longtake.errors import LongtakeError

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> str:
    """Run `code` in a fresh interpreter that knows the package; return what it printed."""
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_can_be_imported() -> None:
    for name in longtake.__all__:
        assert getattr(longtake, name) is not None, name
    assert set(longtake.__all__) <= set(dir(longtake))


def test_public_names_are_listed_once_and_have_a_home() -> None:
    assert longtake.__all__ == sorted(set(longtake.__all__))
    assert set(longtake.__all__) == {*longtake._HOMES, "__version__"}
    for name, module in longtake._HOMES.items():
        value = getattr(importlib.import_module(module), name)
        assert value.__module__ == module, f"{name} is defined in {value.__module__}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'wach'"):
        _ = longtake.wach


def test_every_error_is_public_and_has_its_own_exit_code() -> None:
    errors = LongtakeError.__subclasses__()
    assert {error.__name__ for error in errors} <= set(longtake.__all__)
    codes = [error.exit_code for error in [LongtakeError, *errors]]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, longtake, json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(python(code)))
    assert "longtake" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "av", "PIL", "rich", "typer"})


def test_imports_point_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of .importlinter: layers, independent systems, transformers kept out."""
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    monkeypatch.syspath_prepend(str(ROOT / "src"))
    status = lint_imports(config_filename=str(ROOT / ".importlinter"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS
