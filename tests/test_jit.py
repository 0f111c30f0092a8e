"""Compiled kernels: what recompiles them, and that compiling and loading give the same bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import training_runs as runs

USE_THREE_KERNELS = """
import numpy as np
from bptool.ops import jit
from bptool.ops.philox import philox
from bptool.ops.random_use import first_word
from bptool.ops.uniform import uniforms
word = np.uint32(1)
with jit.compilations() as compiled:
    philox(word, word, word, word, word, word)
    first_word(word)
    uniforms(np.empty(2), np.arange(2, dtype=np.uint64), 0, 1, 2)
print(" ".join(sorted(set(compiled))))
"""
CALLS_PHILOX = '''"""A kernel that reaches another."""
from bptool.ops.jit import kernel
from bptool.ops.philox import philox

@kernel
def first_word(word):
    """The first word."""
    return philox(word, word, word, word, word, word)[0]
'''


def run_python(script: str, root: Path, kernels: Path) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(kernels)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_exactly_the_kernels_that_reach_an_edit_are_compiled_again(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "bptool", tmp_path / "bptool")
    ops = tmp_path / "bptool" / "ops"
    (ops / "random_use.py").write_text(CALLS_PHILOX, encoding="utf-8")

    def compiled() -> str:
        return run_python(USE_THREE_KERNELS, tmp_path, tmp_path / "kernels")

    assert compiled() == "_high first_word philox uniforms"
    assert compiled() == ""
    edit(ops / "philox.py", "Four uint32 words from", "# A comment is no code.\n    Some")
    edit(ops / "philox.py", "_32 = np.uint64(32)", "# Half of a product.\n_32 = np.uint64(32)")
    assert compiled() == ""
    edit(ops / "random_use.py", "[0]", "[1]")
    assert compiled() == "first_word"
    edit(ops / "philox.py", "ROUNDS = 10", "ROUNDS = 9")
    assert compiled() == "first_word philox"
    edit(ops / "uniform.py", "for _ in range(10)", "for _ in range(9)")
    assert compiled() == "_high uniforms"
    edit(ops / "philox.py", "ROUNDS = 9", "ROUNDS = 10")
    edit(ops / "random_use.py", "[1]", "[0]")
    assert compiled() == "", "kernels of earlier code are kept"


def test_importing_kernels_changes_nothing_of_numba_and_writes_nothing(
    root: Path, tmp_path: Path
) -> None:
    script = (
        "from numba.core import codegen, config\n"
        "before = dict(vars(codegen.CPUCodeLibrary)), dict(vars(codegen.JITCPUCodegen))\n"
        "values = {k: v for k, v in vars(config).items() if k.isupper()}\n"
        "import bptool.models.gpt2, bptool.optim, bptool.objectives, bptool.regularizers\n"
        "after = dict(vars(codegen.CPUCodeLibrary)), dict(vars(codegen.JITCPUCodegen))\n"
        "assert after == before\n"
        "assert values == {k: v for k, v in vars(config).items() if k.isupper()}\n"
    )
    run_python(script, root, tmp_path / "kernels")
    assert not (tmp_path / "kernels").exists()


@pytest.mark.parametrize("model", ["model.n_layer=1", "model.name=mlp"])
def test_compiled_and_cached_kernels_give_equal_bits(
    model: str, root: Path, tmp_path: Path
) -> None:
    """The process that compiles a run's kernels ends in the bits of one that loads them."""
    text = tmp_path / "t.txt"
    text.write_text(40 * "the owl and the fox went to the sea. ", encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "NUMBA_CACHE_DIR": str(tmp_path / "kernels"),
    }
    settings = ["training.steps=2", "training.batch_size=2", model]
    for out in ("compiles", "loads"):
        command = [sys.executable, "-m", "bptool", "train", str(text), "--quiet"]
        command += ["--out", str(tmp_path / out), *(w for s in settings for w in ("--set", s))]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert runs.left_behind(tmp_path / "compiles") == runs.left_behind(tmp_path / "loads")


def test_a_kernel_compiles_alone_in_a_process(root: Path, tmp_path: Path) -> None:
    """Assigning to a slice calls a function that Numba looks up while it makes machine code, for
    the target that is current then."""
    (tmp_path / "alone.py").write_text(
        "import numpy as np\n"
        "from bptool.ops.jit import kernel\n"
        "@kernel\n"
        "def put(out, x):\n"
        "    out[0, 1:] = x\n"
        "out = np.zeros((2, 3))\n"
        "put(out, np.ones(2))\n"
        "print(out.sum())\n",
        encoding="utf-8",
    )
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import alone"
    assert run_python(script, root, tmp_path / "kernels") == "2.0"


def test_files_that_cannot_be_read_are_compiled_anew(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "bptool", tmp_path / "bptool")
    (tmp_path / "bptool" / "ops" / "random_use.py").write_text(CALLS_PHILOX, encoding="utf-8")
    kernels = tmp_path / "kernels"
    compiled = run_python(USE_THREE_KERNELS, tmp_path, kernels)
    assert run_python(USE_THREE_KERNELS, tmp_path, kernels) == ""
    gone = b"cold_module\nNoSuchClass\n."  # what pickle calls a class of a module that is gone
    for damage in (lambda data: data[:-20], lambda data: data[:40] + b"c" + gone):
        for index in kernels.rglob("*.nbi"):
            index.write_bytes(damage(index.read_bytes()))
        assert run_python(USE_THREE_KERNELS, tmp_path, kernels) == compiled
        assert run_python(USE_THREE_KERNELS, tmp_path, kernels) == ""
