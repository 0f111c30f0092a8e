"""Whatever fails of what tokenizing asks of the disk: one clear line, nothing is taken for finished
that is not, and going on ends in the same bytes."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
from faults import Faults, chosen, ended_clearly

from bptool.cli.main import main
from bptool.data import encoding, streams, survey, token_writer

TEXT = "".join(f"Tale {i}: the fox saw {i * 37 % 101} owls,\nand went.\n\n" for i in range(400))
TOKENIZERS = {
    "char": ("--set", "data.tokenizer=char"),
    "byte": ("--set", "data.tokenizer=byte", "--set", "data.split.by=document"),
    "bpe": ("--set", "data.tokenizer={name: bpe, vocab_size: 300}"),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Chunks, batches and journals as small as the text needs them to be many; a survey that is
    remembered; and a folder of the test's own."""
    monkeypatch.setattr(streams, "CHUNK_BYTES", 2000)
    monkeypatch.setattr("bptool.data.standard_input.CHUNK_BYTES", 2000)
    monkeypatch.setattr("bptool.data.tokenizers.base.PIECE_CHARACTERS", 1000)
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 2000)
    monkeypatch.setattr(token_writer, "JOURNAL_CHARACTERS", 6000)
    monkeypatch.setattr("bptool.data.corpus.JOURNAL_CHARACTERS", 6000)
    monkeypatch.setattr(survey, "REMEMBERED_FROM", 1000)
    monkeypatch.setattr(survey, "SETTLED_SECONDS", -1e9)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPTOOL_CACHE_DIR", "cache")
    Path("tales.txt").write_text(TEXT, encoding="utf-8", newline="\n")


def made(kind: str = "*") -> dict[str, bytes]:
    """The files that the cache holds, without what is remembered of texts."""
    found = (path for path in Path("cache").rglob(kind) if path.is_file())
    return {path.name: path.read_bytes() for path in found if "survey" not in path.name}


@pytest.mark.parametrize("source", ["tales.txt", "-"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_fault_at_any_call(
    tokenizer: str,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["data", "prepare", source, *TOKENIZERS[tokenizer], "--quiet"]

    def run(faults: Faults) -> int:
        piped = io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", piped)
        return faults.run(command)

    none = Faults()
    assert run(none) == 0
    want = made()
    assert sorted(Path(name).suffix for name in want) == [".tokens", *[".txt"] * (source == "-")]
    assert {"open", "write", "flush", "fsync", "replace", "mkstemp", "truncate"} <= set(none.calls)
    shutil.rmtree("cache")
    slow = Faults(seconds=0.001)
    assert run(slow) == 0
    assert made() == want
    assert slow.calls == none.calls
    shutil.rmtree("cache")
    for faults in chosen(none.calls):
        capsys.readouterr()
        exit_code = run(faults)
        what = ended_clearly(exit_code, capsys.readouterr().err, faults)
        finished = {**made("*.tokens"), **made("*.txt")}
        assert finished.items() <= want.items(), what
        assert exit_code == 2 or finished == want, what
        assert run(Faults()) == 0, what
        assert {n: data for n, data in made().items() if n not in faults.kept} == want, what
        shutil.rmtree("cache")


def test_what_was_tokenized_before_a_fault_is_not_tokenized_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["data", "prepare", "tales.txt", *TOKENIZERS["byte"], "--quiet"]
    none = Faults()
    assert none.run(command) == 0
    shutil.rmtree("cache")
    added: list[int] = []
    add = token_writer.TokenWriter.add

    def counted(self: token_writer.TokenWriter, part: int, ids: object, *counts: int) -> None:
        added.append(part)
        add(self, part, ids, *counts)  # type: ignore[arg-type]

    monkeypatch.setattr(token_writer.TokenWriter, "add", counted)
    late = [n for n, call in enumerate(none.calls) if call == "write"][-3]
    assert Faults(late).run(command) == 2
    before = len(added)
    assert main(command) == 0
    assert len(added) - before < before // 2
