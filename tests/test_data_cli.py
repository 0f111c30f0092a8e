"""``bptool data``: get, list, inspect."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bptool.cli.main import main
from bptool.data.download import DATASETS, Dataset

NAMES = b"ann\nbob\ncid\n" * 400


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ours = Dataset("names", "a few names", "", len(NAMES), hashlib.sha256(NAMES).hexdigest())
    monkeypatch.setitem(DATASETS, "names", ours)
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy.txt").write_bytes(NAMES)
    return tmp_path / "cache"


def test_get_then_list_then_inspect(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    before = capsys.readouterr().out
    assert main(["data", "get", "names", "--from", "copy.txt"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(cache / "datasets" / "names.txt")
    assert "bptool train dataset:names" in err
    assert main(["data", "list"]) == 0
    after = capsys.readouterr().out
    names = [line for line in (*before.splitlines(), *after.splitlines()) if "a few" in line]
    assert ["no" in names[0].split(), "yes" in names[1].split()] == [True, True]
    assert main(["data", "inspect", "dataset:names"]) == 0
    shown = dict(
        line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if ": " not in line
    )
    assert shown["characters"] == "4,800"
    assert shown["distinct characters"] == "8"
    assert shown["characters per token"] == "1.000"


def test_inspect_through_another_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", "copy.txt", "--tokenizer", "bpe"]) == 0
    shown = dict(
        line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if ": " not in line
    )
    assert float(shown["characters per token"]) > 1.9


def test_inspect_counts_documents_tokens_and_duplicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["aab", "bbb", "aab", "c"]  # 4 documents 10 times over, with a blank line between
    (tmp_path / "d.txt").write_text("\n\n".join(kinds * 10), encoding="utf-8")
    assert main(["data", "inspect", "d.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["documents"] == 40
    assert found["characters"] == found["tokens"] == 100 + 2 * 39
    assert found["duplicate documents"] == 37
    assert found["commonest"] == [["'\\n'", 78], ["'b'", 50], ["'a'", 40], ["'c'", 10]]
    assert found["rarest"] == found["commonest"][::-1]
    assert found["tokens never used"] == 0
    assert found["samples"][0].startswith("aab\n\nbbb\n\n")
    # of the last 18 characters all documents stand in the training part too
    assert found["validation documents also in training"] == 4
    assert main(["data", "inspect", "d.txt", "--json", "--tokenizer", "byte"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens never used"] == 252


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["get", "nams"], "unknown data set 'nams'; did you mean 'names'?"),
        (["get", "names", "--from", "gone"], "gone: cannot be read"),
        (["inspect", "gone.txt"], "gone.txt: no such file"),
        (["inspect", "dataset:names"], "bptool data get names"),
        (["inspect", "copy.txt", "--tokenizer", "bpf"], "did you mean 'bpe'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert len(err.strip().splitlines()) == 1


def test_a_model_is_sized_by_the_text_as_a_whole_section_says_it_is_read(
    cache: Path, tmp_path: Path
) -> None:
    from bptool.recipes.training import resolve_source

    path = tmp_path / "text.txt"
    path.write_bytes("für jeden ein Stück\n".encode("latin-1") * 200)
    found = resolve_source([str(path)], [], [f"data={{text: [{path}], encoding: latin-1}}"])
    one_by_one = resolve_source([str(path)], [], ["data.encoding=latin-1"])
    assert found.config == one_by_one.config
