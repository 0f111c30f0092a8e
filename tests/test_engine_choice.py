"""Which engine multiplies: the measured choice, what is remembered of it, and what overrides it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.errors import ConfigError
from bptool.ops.matmul import libraries, matmul, tiled_engine
from bptool.training import engine_choice, machine
from bptool.training.engine_choice import MARGIN, Choice, decide, fastest, measure
from bptool.training.events import Notice, TrainingStarted
from bptool.training.machine import choose_engine, engine_of_run

HAS_MKL = libraries.find_library("mkl") is not None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and nothing that overrides the choice."""
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BPTOOL_ENGINE")
    machine._fastest.cache_clear()
    yield tmp_path / "engines"
    machine._fastest.cache_clear()


def test_the_first_is_taken_unless_another_is_clearly_faster() -> None:
    assert decide({"tiled": 1.0, "blas": 1.3, "mkl": 1.1}).name == "tiled"
    assert decide({"tiled": MARGIN, "blas": 1.0}).name == "tiled"
    assert decide({"tiled": 1.2, "blas": 1.1, "mkl": 1.0}) == Choice(
        "mkl", "its speed here is 1.20 times tiled's, 1.10 times blas's"
    )
    assert decide({"blas": 1.0}) == Choice("blas", "the only one here")


def test_a_measurement_is_made_once_for_a_machine(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def measured(engines: Any, n_workers: int) -> dict[str, float]:
        asked.append(n_workers)
        return {"tiled": 2.0, "blas": 1.0}

    monkeypatch.setattr(engine_choice, "measure", measured)
    identity = {"processor": "one", "libraries": {"blas": "1"}}
    for _ in range(2):
        assert fastest(dict, identity, 2).name == "blas"
    assert asked == [2]
    assert fastest(dict, {**identity, "libraries": {"blas": "2"}}, 2).name == "blas"
    assert asked == [2, 2]
    first, second = sorted(cache.iterdir())
    for path in (first, second):
        kept = json.loads(path.read_text(encoding="utf-8"))
        assert kept["seconds"] == {"tiled": 2.0, "blas": 1.0}
        assert kept["measured_on"]["processor"] == "one"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seconds": {"blas": 0}}', '{"seconds": 3}'])
def test_a_damaged_memory_is_measured_again(
    text: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "measure", lambda engines, n: {"tiled": 1.0, "blas": 3.0})
    fastest(dict, {}, 1)
    (path,) = cache.iterdir()
    path.write_text(text, encoding="utf-8")
    assert fastest(dict, {}, 1).name == "tiled"
    assert json.loads(path.read_text(encoding="utf-8"))["seconds"]["blas"] == 3.0


def test_engines_are_really_measured(cache: Path) -> None:
    make = {"tiled": tiled_engine, "blas": choose_engine("blas").make}
    seconds = measure(make, 2)
    assert list(seconds) == ["tiled", "blas"]
    assert all(0 < value < 10 for value in seconds.values())


def test_auto_takes_what_is_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine_choice, "measure", lambda engines, n: dict.fromkeys(engines, 9.0) | {"blas": 1.0}
    )
    engine = choose_engine("auto")
    assert engine.name == "blas"
    assert engine.why.startswith("its speed here is 9.00 times")
    assert choose_engine("tiled").why == ""
    out = np.zeros((3, 3), np.float32)
    matmul(engine.make(np.float32), out, np.eye(3, dtype="f"), False, np.eye(3, dtype="f"), 0, 0)
    np.testing.assert_array_equal(out, np.eye(3))


def test_a_variable_says_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTOOL_ENGINE", "blas")
    assert choose_engine("auto").name == "blas"
    assert choose_engine("tiled").name == "tiled"
    monkeypatch.setenv("BPTOOL_ENGINE", "mlk")
    with pytest.raises(ConfigError, match="BPTOOL_ENGINE: 'mlk'; did you mean 'mkl'"):
        choose_engine("auto")


def test_an_engine_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_scipy(name: str) -> Any:
        return libraries.find_library(name) if name == "blas" else None

    monkeypatch.setattr(machine, "find_library", only_scipy)
    with pytest.raises(ConfigError, match="'mkl' is not on this machine; pip install mkl"):
        choose_engine("mkl")
    with pytest.raises(ConfigError, match="'accelerate' is not on this machine"):
        choose_engine("accelerate")
    assert engine_of_run("auto", "mkl") == "auto"
    assert engine_of_run("auto", ["tiled"]) == "auto"  # a damaged manifest
    assert engine_of_run("auto", "blas") == "blas"
    assert engine_of_run("tiled", "blas") == "tiled"
    assert engine_of_run("auto", None) == "auto"


@pytest.mark.skipif(not HAS_MKL, reason="mkl is not installed")
def test_mkl_says_its_version_and_is_found_without_loading_it() -> None:
    assert choose_engine("mkl").version.startswith("MKL 20")
    version = libraries.version_of("mkl")
    assert version is not None
    assert choose_engine("mkl").version.startswith(f"MKL {version.rpartition('.')[0]}")


@pytest.mark.parametrize(
    "engine",
    [
        "blas",
        pytest.param("mkl", marks=pytest.mark.skipif(not HAS_MKL, reason="mkl is not installed")),
    ],
)
def test_a_resume_takes_the_engine_of_the_run(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` may mean another one by then: the bits are those of an unbroken run all the same."""
    runs.make_quick(monkeypatch, tmp_path / "cache")
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.GPT2))
    monkeypatch.setenv("BPTOOL_ENGINE", engine)
    runs.train(config, tmp_path / "unbroken")
    first = runs.train(config, tmp_path / "resumed", 5)
    (started,) = [event for event in first.events if isinstance(event, TrainingStarted)]
    assert (started.engine, started.engine_choice) == (engine, "by BPTOOL_ENGINE")
    monkeypatch.setenv("BPTOOL_ENGINE", "tiled")
    second = runs.resume(tmp_path / "resumed")
    assert not any(isinstance(event, Notice) for event in second.events)
    assert runs.left_behind(tmp_path / "resumed") == runs.left_behind(tmp_path / "unbroken")


def test_a_resume_without_the_engine_of_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    config = runs.config_of(runs.settings(runs.write_text(tmp_path), runs.MLP))
    monkeypatch.setenv("BPTOOL_ENGINE", "blas")
    runs.train(config, tmp_path / "run", 5)
    monkeypatch.setenv("BPTOOL_ENGINE", "tiled")
    monkeypatch.setattr(machine, "find_library", lambda name: None)
    told = [e.text for e in runs.resume(tmp_path / "run").events if isinstance(e, Notice)]
    assert any("engine was blas, is tiled" in text for text in told)
