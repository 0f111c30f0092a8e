"""Whatever fails of what ``bptool feedback`` asks of the disk: one clear line, no judgement that
was said to be saved is lost, the file stays one that can be read, and the same command goes on."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs
from faults import WAYS, Faults, chosen, ended_clearly

from bptool.cli import feedback_page
from bptool.cli.main import main
from bptool.errors import DataError
from bptool.feedback.store import Judgement, Store, decided

RULES = "def judge(prompt, left, right):\n    return 'left' if left < right else 'right'\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, prompts and rules."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        values = runs.settings(runs.write_text(folder), runs.GPT2 | {"context": 24}, steps=3)
        runs.train(runs.config_of(values), folder / "run")
    (folder / "prompts.txt").write_text("".join(f"the cat {c}\n" for c in "abcdeh"), "utf-8")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _inside(monkeypatch: pytest.MonkeyPatch, inputs: Path, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(inputs)


def command(out: Path) -> list[str]:
    asked = ["feedback", "run", "--prompts", "prompts.txt", "--out", str(out)]
    return [*asked, "--max-tokens", "4", "--judge", "rules.py"]


def judgement(number: int, reviewer: str = "ann") -> Judgement:
    about: dict[str, Any] = {"reviewer": reviewer, "seed": 0, "number": number, "source": {}}
    return decided(f"prompt {number}", "left é", "right", "left", **about)


def test_a_fault_at_any_call_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none, out = Faults(), tmp_path / "judged.jsonl"
    assert none.run(command(out)) == 0
    want = out.read_bytes()
    assert len(none.calls) > 20
    out.unlink()
    slow = Faults(seconds=0.002)
    assert slow.run(command(out)) == 0
    assert out.read_bytes() == want
    saved: list[Judgement] = []
    add = Store.add

    def watched(self: Store, judged: Judgement) -> None:
        add(self, judged)
        saved.append(judged)

    monkeypatch.setattr(Store, "add", watched)
    for faults in chosen(none.calls):
        out.unlink(missing_ok=True)
        saved.clear()
        capsys.readouterr()
        exit_code = faults.run(command(out))
        what = ended_clearly(exit_code, capsys.readouterr().err, faults)
        kept = Store(out).judgements
        assert kept[: len(saved)] == saved, what
        assert len(kept) - len(saved) <= 1, what
        assert Faults().run(command(out)) == 0, what
        assert out.read_bytes() == want, what
        assert not faults.leftovers(tmp_path), what


def change(path: Path, faults: Faults) -> tuple[Store, list[str]]:
    """Judgements that are added, undone, and added after a line that a crash tore, each tried again
    where it failed at first; the store in the end, and the errors."""
    errors: list[str] = []

    def insist(action: Any, *arguments: Any) -> Any:
        for _ in range(2):
            try:
                return action(*arguments)
            except DataError as error:
                errors.append(str(error))
        raise AssertionError(errors)

    path.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        store = insist(Store, path)
        insist(store.add, judgement(0))
        insist(store.add, judgement(1, "bob"))
        insist(store.add, judgement(2))
        insist(store.undo, "ann")
        insist(store.add, judgement(3))
    with path.open("ab") as file:
        file.write(b'{"prompt": "torn')
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        store = insist(Store, path)
        insist(store.add, judgement(4))
    return store, errors


def test_what_failed_once_is_done_once_when_it_is_tried_again(tmp_path: Path) -> None:
    none, path = Faults(), tmp_path / "judged.jsonl"
    store, errors = change(path, none)
    assert errors == []
    want = [judgement(0), judgement(1, "bob"), judgement(3), judgement(4)]
    assert Store(path).judgements == store.judgements == want
    for faults in chosen(none.calls):
        if faults.way.lasting:
            continue
        store, errors = change(path, faults)
        assert Store(path).judgements == store.judgements == want, (faults, errors)
        assert len(errors) <= 1


def test_the_page_says_that_the_disk_failed_and_saves_when_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own server, and the judgement of its first pair, which fails at each of its calls
    and is sent again."""
    out = tmp_path / "judged.jsonl"
    asked = [*command(out)[:-2], "--serve", "--reviewer", "ann"]
    replies: list[tuple[int, str]] = []

    def send(server: feedback_page.Server, path: str, value: Any = None) -> Any:
        data = None if value is None else json.dumps(value).encode()
        try:
            with urllib.request.urlopen(server.url + path, data, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            replies.append((error.code, json.load(error)["error"]))
            return None

    def visit(server: feedback_page.Server) -> None:
        thread = threading.Thread(target=super(type(server), server).serve_forever, args=(0.01,))
        thread.start()
        try:
            number = 0
            while True:
                faults = Faults(number, WAYS["an I/O error once"])
                with pytest.MonkeyPatch.context() as patch:
                    pair = send(server, "pair")["pair"]
                    faults.install(patch)
                    said = {"number": pair["number"], "choice": "right"}
                    saved = send(server, "judge", said)
                if saved is not None:
                    break
                number += 1
            assert saved["pair"]["number"] > pair["number"]
        finally:
            server.shutdown()
            thread.join()

    monkeypatch.setattr(feedback_page.Server, "serve_forever", visit)
    assert main(asked) == 0
    assert len(replies) >= 3
    assert {code for code, _ in replies} == {409}
    assert all("Input/output error; the 0 judgements before" in said for _, said in replies)
    (only,) = [j for j in Store(out).judgements if j.left != j.right]
    assert only.choice == "right"
