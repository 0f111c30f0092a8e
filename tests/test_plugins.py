"""Parts from a user's own file: the documented example, the kernel cache, and every mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_optim_contract as contract

from bptool.errors import ConfigError
from bptool.plugins import load_plugin
from bptool.registry import optimizers, regularizers, schedules

pytestmark = pytest.mark.usefixtures("registries_as_before")

ROOT = Path(__file__).resolve().parent.parent

SCHEDULE = """\
from bptool.optim.schedules.base import Schedule, ScheduleConfig
from bptool.registry import schedules


@schedules.register("{name}")
class Mine(Schedule):
    Config = ScheduleConfig

    def shape(self, done, n_steps):
        return 1 / (1 + done)
"""


def example() -> str:
    """The optimizer that docs/plugins.md shows."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(code)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def run_python(script: str, argument: Path, **environment: str) -> str:
    """What a new process prints that runs ``script`` with one argument."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(argument)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout


def test_the_documented_optimizer_runs(tmp_path: Path) -> None:
    load_plugin(write(tmp_path / "sign_sgd.py", example()))
    cls = optimizers.get("sign-sgd")
    optimizer = cls(cls.Config(learning_rate=0.5, beta=0.0))
    w = np.array([1.0, -2.0, 3.0, 0.0], np.float32)
    slots = {name: np.zeros_like(w) for name in optimizer.slots}
    g = np.array([0.1, -5.0, 0.0, 0.0], np.float32)
    optimizer.update(w, g, slots, learning_rate=0.5, weight_decay=0.0, grad_scale=1.0, step=1)
    assert w.tolist() == [0.5, -1.5, 3.0, 0.0]
    assert w.dtype == np.float32


def test_the_documented_optimizer_keeps_the_contract(tmp_path: Path) -> None:
    load_plugin(write(tmp_path / "sign_sgd.py", example()))
    for check in (
        contract.test_update_works_in_place_and_keeps_no_state,
        contract.test_disjoint_slices_equal_the_whole_bit_for_bit,
        contract.test_padding_stays_zero,
        contract.test_resumes_exactly_from_copied_slots,
        contract.test_grad_scale_scales_the_gradient_first,
    ):
        check("sign-sgd", "defaults", np.float32)
    contract.test_the_second_call_does_not_recompile("sign-sgd", "defaults")
    contract.test_float32_arithmetic_is_in_float32_vectors("sign-sgd", "defaults")
    contract.test_converges_on_a_parabola("sign-sgd")


def test_the_documented_optimizer_is_short_and_stands_alone() -> None:
    assert len(example().splitlines()) <= 40
    imported = set(re.findall(r"^(?:import|from) (\w+)", example(), re.MULTILINE))
    assert imported == {"numpy", "bptool"}


def test_a_plugin_file_keeps_its_compiled_kernels(tmp_path: Path) -> None:
    """A second process takes the kernel from the disk; a changed file is compiled anew."""
    path = write(tmp_path / "sign_sgd.py", example())
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from bptool.plugins import load_plugin\n"
        "module = load_plugin(Path(sys.argv[1]))\n"
        "w = np.ones(3, np.float32)\n"
        "module.sign_sgd_update(w, w.copy(), np.zeros_like(w), 0.25, 0.0, 1.0)\n"
        "stats = module.sign_sgd_update.stats\n"
        "print(float(w[0]), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )

    def run() -> list[float]:
        output = run_python(script, path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        return [float(part) for part in output.split()]

    assert run() == [0.75, 0, 1]
    assert run() == [0.75, 1, 0]
    changed = example().replace("w[i] -= real(learning_rate)", "w[i] += real(learning_rate)")
    write(path, changed + "\n")
    assert run() == [1.25, 0, 1]


def test_every_kind_of_part_can_be_added(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", SCHEDULE.format(name="hyperbola"))
    load_plugin(tmp_path / "mine.py")
    assert schedules.get("hyperbola")(schedules.get("hyperbola").Config()).factor(4, 9) == 0.25
    source = (
        "from bptool.regularizers.base import Regularizer, RegularizerConfig\n"
        "from bptool.registry import regularizers\n"
        "@regularizers.register('none')\n"
        "class Nothing(Regularizer):\n"
        "    Config = RegularizerConfig\n"
        "    def penalty_and_gradient(self, w, g):\n"
        "        return 0.0\n"
    )
    load_plugin(write(tmp_path / "penalty.py", source))
    assert "none" in regularizers.names()


def test_loading_twice_is_free_and_two_files_of_one_name_differ(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", SCHEDULE.format(name="first"))
    other = tmp_path / "other"
    other.mkdir()
    write(other / "mine.py", SCHEDULE.format(name="second"))
    module = load_plugin(path)
    assert load_plugin(str(path)) is module
    assert load_plugin(tmp_path / "other" / ".." / "mine.py") is module
    assert load_plugin(other / "mine.py") is not module
    assert {"first", "second"} <= set(schedules.names())


def test_a_module_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "optim_test_package"
    package.mkdir()
    write(package / "__init__.py", '"""Parts of a test."""\n')
    write(package / "parts.py", SCHEDULE.format(name="packaged"))
    write(package / "broken.py", "x = 1\nraise RuntimeError('no luck')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugin("optim_test_package.parts")
    assert "packaged" in schedules.names()
    with pytest.raises(ConfigError, match=r"broken\.py, line 2: RuntimeError: no luck$"):
        load_plugin("optim_test_package.broken")


@pytest.mark.parametrize("name", ["no_such_package_at_all", "numpy.no_such_part"])
def test_a_module_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^plug-in {name}: no such module; give"):
        load_plugin(name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.py: no such file$"):
        load_plugin(tmp_path / "absent.py")
    with pytest.raises(ConfigError, match=r"^plug-in absent\.py: no such file$"):
        load_plugin("absent.py")


def test_something_that_is_not_a_python_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.py"
    folder.mkdir()
    for path in (write(tmp_path / "rule.txt", ""), folder):
        with pytest.raises(ConfigError, match="not a Python file; give"):
            load_plugin(path)


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("x = 1\n\ny = x / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import no_such_package\n", 1, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = 1\ndef f(:\n", 2, "SyntaxError: invalid syntax"),
        ("def f():\n    raise ValueError('a\\nb')\n\nf()\n", 2, "ValueError: a b"),
        ("raise AssertionError\n", 1, "AssertionError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError: "),
    ],
)
def test_an_error_in_the_file_is_one_line_with_its_place(
    tmp_path: Path, source: str, line: int, message: str
) -> None:
    path = write(tmp_path / "faulty.py", source)
    with pytest.raises(ConfigError) as caught:
        load_plugin(path)
    text = str(caught.value)
    assert text.startswith(f"plug-in {path.resolve()}, line {line}: {message}")
    assert "\n" not in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("taken", ["constant", "cosine"])
def test_a_name_that_is_taken(tmp_path: Path, taken: str) -> None:
    path = write(tmp_path / "clash.py", SCHEDULE.format(name=taken))
    with pytest.raises(ConfigError, match=rf"clash\.py, line 5: schedule '{taken}' is registered"):
        load_plugin(path)
    assert schedules.get(taken).__module__ == f"bptool.optim.schedules.{taken}"


def test_a_clash_is_the_plugins_in_a_fresh_process(tmp_path: Path) -> None:
    """Our own parts come first, even where the plug-in imports none of them."""
    source = (
        "from bptool.registry import regularizers\n\n\n"
        "@regularizers.register('l2')\nclass Mine:\n    Config = object\n"
    )
    script = (
        "import sys\n"
        "from bptool.errors import ConfigError\n"
        "from bptool.plugins import load_plugin\n"
        "try:\n    load_plugin(sys.argv[1])\nexcept ConfigError as error:\n    print(error)\n"
    )
    path = write(tmp_path / "clash.py", source)
    assert "clash.py, line 4: regularizer 'l2' is registered" in run_python(script, path)


def test_a_failed_plugin_leaves_nothing_behind_and_can_be_mended(tmp_path: Path) -> None:
    path = write(tmp_path / "half.py", SCHEDULE.format(name="half") + "raise RuntimeError\n")
    with pytest.raises(ConfigError, match="RuntimeError"):
        load_plugin(path)
    assert "half" not in schedules.names()
    write(path, SCHEDULE.format(name="half"))
    load_plugin(path)
    assert "half" in schedules.names()
