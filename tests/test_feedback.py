"""Collecting judgements: nothing answered is lost, by key, by page, by rules, or under a kill."""

from __future__ import annotations

import errno
import http.client
import json
import math
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
from hypothesis import given, settings
from hypothesis import strategies as st

from bptool.cli.feedback_page import Server
from bptool.data.chat.records import Message
from bptool.data.record_report import RecordReport
from bptool.data.tokenizers.byte import ByteTokenizer
from bptool.errors import DataError, UserError
from bptool.feedback.agreement import agreement
from bptool.feedback.prompts import read_prompt_records, read_prompts, said_last, transcript
from bptool.feedback.rules import Rules
from bptool.feedback.session import Session
from bptool.feedback.store import Judgement, Store, decided
from bptool.feedback.win_rate import WinRate, count, wilson
from bptool.inference.answers import Answerer
from bptool.inference.sampling import Sampling
from bptool.models.presets import GPT2, GPT2Config
from bptool.plugins import name_rules
from bptool.registry import templates
from bptool.training.workers import WorkerTeam

RULES = """
def judge(prompt, left, right):
    return "tie" if len(left) == len(right) else "left" if len(left) > len(right) else "right"
def reward(prompt, answer):
    return float(len(answer))
"""


@pytest.fixture(scope="module")
def answerer() -> Any:
    tokenizer = ByteTokenizer().with_special_tokens(("<|user|>", "<|assistant|>", "<|end|>"))
    tokenizer = tokenizer.with_special_tokens(templates.get("roles").special_tokens)
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, context=64)
    model = GPT2(config, tokenizer.vocab_size)
    weights = model.layout.allocate(np.float32)
    model.initialise(weights, 1)
    with WorkerTeam(1) as team:
        yield Answerer(model, model.params(weights), team, tokenizer, templates.get("roles")())


def session_of(answerer: Any, path: Path, reviewer: str = "ann", n: int = 5, seed: int = 3) -> Any:
    prompts = [f"prompt {i}" for i in range(n)]
    sampling = Sampling(1.0, None, None, seed)
    return Session(answerer, prompts, Store(path), reviewer, sampling, 6, {"run": "r"})


def test_answers_depend_on_prompt_seed_and_number_alone(answerer: Any) -> None:
    prompts = [f"prompt {i}" for i in range(70)]
    sampling = Sampling(1.0, None, None, 3)
    all_at_once = answerer.answers(prompts, 2, 6, sampling)
    assert len(all_at_once) == 70
    assert len({a.text for pair in all_at_once for a in pair}) > 100
    (alone,) = answerer.answers([prompts[66]], 3, 6, sampling, [66])
    assert alone[:2] == all_at_once[66]
    for answer in alone:
        assert len(answer.tokens) <= 6
        assert answer.ended == (answer.tokens[-1] >= 256)
    long = "x" * 55
    (cut,) = answerer.answers([long], 1, 40, sampling)
    assert len(cut[0].tokens) <= 64 - len(answerer.encode(long))
    with pytest.raises(DataError, match="a prompt of 73 tokens"):
        answerer.encode("x" * 70)


def test_a_session_goes_through_all_prompts_and_goes_on(answerer: Any, tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    first = session_of(answerer, path)
    shown = []
    for choice in ("left", "right", "skip"):
        pair = first.next()
        shown.append(pair)
        first.judge(pair, choice)
    second = session_of(answerer, path)
    assert [second.next().number, len(second.left_over)] == [3, 2]
    second.edit(second.next(), "right", "better")
    second.judge(second.next(), "tie")
    assert second.next() is None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["choice"] for line in lines] == ["left", "right", "skip", "edit", "tie"]
    assert (lines[0]["chosen"], lines[0]["rejected"]) == (shown[0].left, shown[0].right)
    assert (lines[1]["chosen"], lines[1]["rejected"]) == (shown[1].right, shown[1].left)
    assert lines[3]["chosen"] == "better"
    assert [line["chosen"] for line in lines[2::2]] == [None, None]
    other = session_of(answerer, path, reviewer="bob")
    pair = other.next()
    assert (pair.left, pair.right) == (shown[0].left, shown[0].right)
    sides = {session_of(answerer, tmp_path / "x", n=40)._answerer is answerer}
    assert sides == {True}


def test_undo_takes_back_the_last_of_this_reviewer(answerer: Any, tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    ann, bob = session_of(answerer, path), None
    ann.judge(ann.next(), "left")
    ann.judge(ann.next(), "right")
    bob = session_of(answerer, path, reviewer="bob")
    bob.judge(bob.next(), "tie")
    again = session_of(answerer, path)
    taken = again.undo()
    assert taken.choice == "right"
    assert again.next().number == 1
    kept = [(j.reviewer, j.choice) for j in Store(path).judgements]
    assert kept == [("ann", "left"), ("bob", "tie")]
    assert again.undo().choice == "left"
    assert again.undo() is None


def test_sides_are_shuffled(answerer: Any, tmp_path: Path) -> None:
    session = session_of(answerer, tmp_path / "p.jsonl", n=40)
    two = answerer.answers([f"prompt {i}" for i in range(40)], 2, 6, Sampling(1.0, None, None, 3))
    on_the_left = []
    while pair := session.next():
        on_the_left.append(pair.left == two[pair.number][0].text)
        session.judge(pair, "skip")
    assert 8 < sum(on_the_left) < 32


def judgement(choice: str, reviewer: str = "ann", prompt: str = "p") -> Judgement:
    return decided(
        *(prompt, "left é\n", "right", choice, "edited"),  # type: ignore[arg-type]
        reviewer=reviewer,
        seed=0,
        number=0,
        source={},
    )


@settings(max_examples=20)
@given(st.integers(0, 900))
def test_a_torn_line_is_dropped_and_all_before_is_kept(tmp_path_factory: Any, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "prefs.jsonl"
    store = Store(path)
    for choice in ("left", "edit", "skip"):
        store.add(judgement(choice))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    cut = min(cut, len(whole))
    path.write_bytes(whole[:cut])
    again = Store(path)
    assert len(again.judgements) == sum(end <= cut for end in ends)
    again.add(judgement("tie"))
    assert Store(path).judgements == again.judgements


def test_undo_keeps_what_another_reviewer_added_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    ann, bob = Store(path), Store(path)
    ann.add(judgement("left"))
    bob.add(judgement("right", "bob"))
    assert ann.undo("ann") == judgement("left")
    assert ann.judgements == Store(path).judgements == [judgement("right", "bob")]
    assert ann.undo("ann") is None


ADD_AND_UNDO = """
import sys
from pathlib import Path
from bptool.feedback.store import Store, decided
name = sys.argv[2]
store = Store(Path(sys.argv[1]))
for i in range(30):
    store.add(decided(f"p{i}", "a", "b", "left", reviewer=name, seed=0, number=i, source={}))
    if i % 3 == 2:
        assert store.undo(name).number == i
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is open")
def test_reviewers_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "prefs.jsonl"
    begin = [sys.executable, "-c", ADD_AND_UNDO, str(path)]
    source = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    names = ("ann", "bob", "eve")
    processes = [subprocess.Popen([*begin, name], env=source) for name in names]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    kept = Store(path).judgements
    for name in names:
        assert [j.number for j in kept if j.reviewer == name] == [i for i in range(30) if i % 3 < 2]


@pytest.mark.parametrize("torn", [b"", b'{"prompt": "p", "ch'])
def test_a_full_disk_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    path = tmp_path / "prefs.jsonl"
    store = Store(path)
    store.add(judgement("left"))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left on device; the 1 judgements before"):
            store.add(judgement("right"))
    assert path.read_bytes() == whole
    path.write_bytes(whole + torn)
    store.add(judgement("tie"))
    assert Store(path).judgements == store.judgements == [judgement("left"), judgement("tie")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "no choice"),
        ("{", "Expecting"),
        ('{"choice": "left"}', "left is not a text"),
        ('{"choice": "best"}', "no choice"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "prefs.jsonl"
    Store(path).add(judgement("left"))
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=rf"prefs.jsonl:2 is no judgement \({reason}|.*{reason}"):
        Store(path)


def test_agreement_equals_the_formula_by_hand() -> None:
    # three pairs judged by two reviewers, who agree on two of them
    said = [("left", "left"), ("right", "right"), ("left", "tie")]
    judged = [
        judgement(choice, reviewer, f"p{i}")
        for i, both in enumerate(said)
        for reviewer, choice in zip(("ann", "bob"), both, strict=True)
    ]
    found = agreement([*judged, judgement("skip", "ann", "p9"), judgement("left", "eve", "p8")])
    assert (found.n_pairs, found.share) == (3, pytest.approx(2 / 3))
    expected = (3 / 6) ** 2 + (2 / 6) ** 2 + (1 / 6) ** 2
    assert found.kappa == pytest.approx((2 / 3 - expected) / (1 - expected))
    assert math.isnan(agreement([judgement("left")]).share)
    swapped = decided(
        "p", "right", "left é\n", "right", reviewer="bob", seed=0, number=0, source={}
    )
    assert agreement([judgement("left"), swapped]).share == 1.0


@pytest.mark.parametrize(("share", "n"), [(0.5, 10), (0.0, 20), (1.0, 7), (0.62, 300)])
def test_the_interval_is_wilsons(share: float, n: int) -> None:
    from scipy.stats import binomtest

    want = binomtest(round(share * n), n).proportion_ci(method="wilson")
    assert wilson(share, n) == pytest.approx((want.low, want.high))


def test_ties_count_half() -> None:
    found = count([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 3.0, 1.0])
    assert found == WinRate(1, 2, 1)
    assert found.rate == 0.5


def test_prompts_are_read_from_lines_and_records(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("one\n\n two \none\n", encoding="utf-8")
    records = tmp_path / "a.jsonl"
    talk = [{"role": "user", "content": "Hi"}]
    records.write_text(
        "".join(json.dumps(v) + "\n" for v in [{"prompt": "three"}, {"messages": talk}]),
        encoding="utf-8",
    )
    assert read_prompts([lines, records]) == ["one", "two", "three", (Message("user", "Hi"),)]
    turns = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Who?"))
    assert transcript(turns) == "user: Hi\n\nassistant: Yes?\n\nuser: Who?"
    assert [transcript(turns[:1]), transcript("Hi"), said_last(turns)] == ["Hi", "Hi", "Who?"]
    records.write_text('{"prompt": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.jsonl:1: prompt is not a text or empty"):
        read_prompts([records])
    lines.write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="no prompt; give one a line"):
        read_prompts([lines])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1", "has neither judge"),
        ("1 / 0", "fails: ZeroDivisionError"),
        ("def judge(p, a, b): return 'best'", "judge returned 'best'"),
        ("def judge(p, a, b): raise KeyError(p)", "judge fails: KeyError"),
        ("def reward(p, a): return float('nan')", "reward returned nan"),
        ("def reward(p, a): return '1'", "reward returned '1' for the prompt 'p'"),
        ("def reward(p, a): return [1.0, 2.0]", r"reward returned \[1.0, 2.0\]"),
        ("def reward(p, a): return None", "reward returned None"),
        ("def reward(p, a): return 10 ** 400", "reward returned 1000"),
        ("import numpy as np\ndef reward(p, a): return np.float32('inf')", "reward returned np"),
        ("import numpy as np\ndef reward(p, a): return np.complex64(1j)", "reward returned np"),
        ("def reward(p, a):\n\n    return 1 / 0", r"rules.py:3: reward fails: ZeroDivision"),
        ("def reward(p, a): exit(1)", "reward fails: SystemExit"),
    ],
)
def test_rules_that_fail_are_named(tmp_path: Path, source: str, reason: str) -> None:
    path = tmp_path / "rules.py"
    path.write_text(source, encoding="utf-8")
    name_rules("--judge", path)
    with pytest.raises(UserError, match=reason):
        Rules(path).judge("p", "a", "b")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("np.float32(0.5)", 0.5),
        ("np.int64(3)", 3.0),
        ("np.bool_(True)", 1.0),
        ("np.array(2.0)", 2.0),
        ("True", 1.0),
        ("7", 7.0),
        ("fractions.Fraction(1, 4)", 0.25),
    ],
)
def test_any_number_is_a_reward(tmp_path: Path, value: str, number: float) -> None:
    path = tmp_path / "rules.py"
    path.write_text(
        f"import fractions\nimport numpy as np\ndef reward(p, a): return {value}\n",
        encoding="utf-8",
    )
    name_rules("--reward", path)
    assert Rules(path).reward("p", "a") == number


@pytest.mark.parametrize(
    ("parameters", "value", "found"),
    [
        ("p, a, record", "record['key']", 5.0),
        ("p, a, key", "key", 5.0),
        ("p, a, key, other=2", "key + other", 7.0),
        ("p, a, *, key", "key", 5.0),
        ("p, a, key, /", "key", 5.0),
        ("p, a, **columns", "columns['key'] + len(columns) / 10", 5.2),
        ("prompt, answer, **columns", "columns['key'] + len(columns) / 10", 5.1),
        ("p, a, *more, **columns", "columns['key'] + len(more)", 5.0),
        ("*, prompt, answer, key", "key + len(answer)", 6.0),
        ("p, a", "len(a)", 1.0),
    ],
)
def test_a_reward_is_given_the_columns_that_it_asks_for(
    tmp_path: Path, parameters: str, value: str, found: float
) -> None:
    path = tmp_path / "rules.py"
    path.write_text(f"def reward({parameters}): return {value}\n", encoding="utf-8")
    name_rules("--reward", path)
    rules, columns = Rules(path), {"prompt": "p", "answer": 1, "key": 5}
    rules.check(columns, "file:1")
    assert rules.reward("p", "a", columns) == pytest.approx(found)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def reward(p, a, solution): return 0\n", encoding="utf-8")
    name_rules("--reward", path)
    with pytest.raises(UserError, match=r"asks for 'solution', which the record of file:3 does"):
        Rules(path).check({"prompt": "x", "question": "y"}, "file:3")


def test_what_rules_print_goes_to_the_standard_error(tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "rules.py"
    path.write_text(
        "import os\nprint('loading')\n"
        "def reward(p, a):\n    print('judging')\n    os.write(1, b'raw\\n')\n    return 1\n",
        encoding="utf-8",
    )
    name_rules("--reward", path)
    sys.stdout.write("before\n")
    Rules(path).reward("p", "a")
    sys.stdout.write("after\n")
    said = capfd.readouterr()
    assert said.out.split() == ["before", "after"]
    assert sorted(said.err.split()) == ["judging", "loading", "raw"]


def test_prompts_keep_their_records(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.jsonl", tmp_path / "a.txt"
    values = [{"prompt": "one", "key": 1}, {"prompt": "one", "key": 2}, {"prompt": "two"}]
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    lines.write_text("\nthree\n", encoding="utf-8")
    report = RecordReport()
    found = read_prompt_records([path, lines], report)
    assert [(r.prompt, r.columns.get("key"), r.place) for r in found] == [
        ("one", 1, f"{path}:1"),
        ("two", None, f"{path}:3"),
        ("three", None, f"{lines}:2"),
    ]
    assert report.left_out() == (
        "1 record was left out: 1 with a prompt that another record has with other columns"
    )


def test_rules_without_a_judge_go_by_their_reward(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def reward(p, a): return len(a)", encoding="utf-8")
    with pytest.raises(UserError, match="runs only when you name it"):
        Rules(path)
    name_rules("--judge", path)
    rules = Rules(path)
    found = [rules.judge("p", *pair) for pair in (("aa", "b"), ("a", "bb"), ("a", "b"))]
    assert found == ["left", "right", "tie"]
    with pytest.raises(UserError, match="no such file"):
        name_rules("--judge", tmp_path / "missing.py")


class Page:
    """A page that is served, and requests to it."""

    def __init__(self, session: Any) -> None:
        self.server = Server(session)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def send(
        self, path: str, value: Any = None, host: str | None = None, secret: str | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        headers = {} if host is None else {"Host": host}
        place = f"/{self.server.secret if secret is None else secret}/{path}"
        body = None if value is None else json.dumps(value)
        try:
            connection.request("GET" if value is None else "POST", place, body, headers)
            answer = connection.getresponse()
            data = answer.read().decode("utf-8")
        finally:
            connection.close()
        is_json = "json" in answer.headers["Content-Type"]
        return answer.status, json.loads(data) if is_json else data


def test_the_page_judges_undoes_and_edits(answerer: Any, tmp_path: Path) -> None:
    path = tmp_path / "prefs.jsonl"
    with Page(session_of(answerer, path)) as page:
        status, html = page.send("")
        assert status == 200
        assert "http" not in html.replace("http-equiv", "")  # nothing from elsewhere
        _, found = page.send("pair")
        assert (found["done"], found["total"], found["pair"]["number"]) == (0, 5, 0)
        status, found = page.send("judge", {"number": 0, "choice": "left"})
        assert (status, found["done"]) == (200, 1)
        status, found = page.send("judge", {"number": 0, "choice": "left"})  # sent twice
        assert (status, "judged already" in found["error"]) == (409, True)
        page.send("undo", {})
        assert page.send("pair")[1]["done"] == 0
        assert page.send("undo", {})[0] == 409
        edit = {"number": 0, "choice": "edit", "side": "right", "text": "better"}
        assert page.send("judge", edit)[1]["done"] == 1
        assert page.send("judge", {"number": 1, "choice": "edit", "side": "left"})[0] == 409
    (only,) = Store(path).judgements
    assert (only.choice, only.chosen) == ("edit", "better")


def test_nobody_else_reaches_the_page(answerer: Any, tmp_path: Path) -> None:
    with Page(session_of(answerer, tmp_path / "p.jsonl")) as page:
        assert page.server.server_address[0] == "127.0.0.1"
        assert page.send("pair", secret="guess")[0] == 403
        assert page.send("pair", host="evil.example")[0] == 403
        assert page.send("judge", {"number": 0, "choice": "left"}, host="evil.example")[0] == 403
        assert page.send("elsewhere")[0] == 404
        assert page.send("../../etc/passwd")[0] == 404
        assert page.send("judge", "x")[0] == 409
        assert page.send("judge", "x" * (1 << 20))[0] == 400


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    """A small run that continues text."""
    folder = tmp_path_factory.mktemp("feedback")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        settings = runs.settings(runs.write_text(folder), runs.GPT2 | {"context": 24}, steps=3)
        runs.train(runs.config_of(settings), folder / "run")
    (folder / "prompts.txt").write_text("".join(f"the cat {c}\n" for c in "abcdehiklno"), "utf-8")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    return folder / "run"


def command(run: Path, out: Path, *more: str) -> list[str]:
    prompts = str(run.parent / "prompts.txt")
    return [
        "feedback",
        str(run),
        "--prompts",
        prompts,
        "--out",
        str(out),
        "--max-tokens",
        "4",
        *more,
    ]


def test_rules_judge_through_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "prefs.jsonl"
    rules = str(run.parent / "rules.py")
    process = runs.process(*command(run, out, "--judge", rules, "--json"))
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(said)["judgements"] == 11
    for j in Store(out).judgements:
        assert j.reviewer == "rules:rules.py"
        if j.chosen is not None and j.rejected is not None:
            assert len(j.chosen) > len(j.rejected)
    again = runs.process(*command(run, out, "--judge", rules, "--json"))
    assert json.loads(again.communicate(timeout=300)[0])["judgements"] == 11


def test_lines_stand_for_keys_where_there_is_no_terminal(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "prefs.jsonl"
    import subprocess

    process = runs.process(*command(run, out, "--reviewer", "ann"), stdin=subprocess.PIPE)
    said, errors = process.communicate("1\nright\nwhat\nu\nt\ne\n2\nbetter\nq\n", timeout=300)
    assert process.returncode == 0, errors
    kept = [j for j in Store(out).judgements if j.left != j.right]
    assert [j.choice for j in kept] == ["left", "tie", "edit"]
    assert kept[-1].chosen == "better"
    assert "prompts are left" in said


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and SIGINT are of POSIX")
def test_what_the_page_was_told_is_kept_when_the_command_is_killed(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "prefs.jsonl"
    for killed_by, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0)):
        process = runs.process(*command(run, out, "--serve", "--reviewer", "ann"))
        assert process.stdout is not None
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())
        with urllib.request.urlopen(f"{url}pair", timeout=60) as answer:
            pair = json.load(answer)["pair"]
        said = json.dumps({"number": pair["number"], "choice": "right"}).encode()
        with urllib.request.urlopen(f"{url}judge", said, timeout=60) as answer:
            assert json.load(answer)["pair"]["number"] > pair["number"]
        process.send_signal(killed_by)
        text, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        assert Store(out).judgements[-1].choice in ("right", "tie")  # ties of identical answers
        assert pair["number"] in [j.number for j in Store(out).judgements if j.choice == "right"]
    assert "2 right" in " ".join(text.split())


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_keys_of_a_terminal(run: Path, tmp_path: Path) -> None:
    import pty

    out = tmp_path / "prefs.jsonl"
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-m", "bptool", *command(run, out)])
    shown = b""
    keys = [b"\x1b[D", b"\x1b[C", b"t", b"u", b"s", b"q"]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
        if keys and shown.count(b"quit") > 6 - len(keys):
            os.write(terminal, keys.pop(0))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    os.close(terminal)
    choices = [j.choice for j in Store(out).judgements if j.left != j.right]
    assert choices == ["left", "right", "skip"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
def test_killed_at_any_moment_no_judgement_is_lost(run: Path, tmp_path: Path) -> None:
    draw, out = random.Random(5), tmp_path / "prefs.jsonl"
    slow = tmp_path / "slow.py"
    noted = tmp_path / "noted.txt"
    slow.write_text(
        "import time\n"
        "def judge(prompt, left, right):\n"
        f"    with open({str(noted)!r}, 'a') as file: file.write(prompt + '\\n')\n"
        "    time.sleep(0.05)\n"
        "    return 'left'\n",
        encoding="utf-8",
    )
    before = 0
    for _ in range(4):
        process = runs.process(*command(run, out, "--judge", str(slow)))
        asked = len(noted.read_text().splitlines()) if noted.exists() else 0
        for _ in range(600):
            time.sleep(0.05)
            now = len(noted.read_text().splitlines()) if noted.exists() else 0
            if now > asked or process.poll() is not None:
                break
        time.sleep(draw.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        kept = {str(j.prompt) for j in Store(out).judgements}
        asked_for = noted.read_text().splitlines()
        assert set(asked_for) - {asked_for[-1]} <= kept  # a next one is asked for once it is kept
        judged = len(kept)
        assert judged >= before
        before = judged
        if judged == 11:
            break
    last = runs.process(*command(run, out, "--judge", str(slow)))
    assert last.communicate(timeout=300)
    assert last.returncode == 0
    prompts = [str(j.prompt) for j in Store(out).judgements]
    assert len(prompts) == len(set(prompts)) == 11
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".writing")] == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--judge", "missing.py"), "missing.py: no such file"),
        (("--serve", "--judge", "x.py"), "--serve and --judge exclude each other"),
        (("--json",), "--json needs --judge"),
        (("--out", "nowhere/prefs.jsonl"), "nowhere: no such folder"),
        (("--reviewer", " "), "--reviewer is empty"),
    ],
)
def test_bad_requests_are_one_line(
    run: Path, tmp_path: Path, more: tuple[str, ...], reason: str
) -> None:
    process = runs.process(*command(run, tmp_path / "p.jsonl", *more), cwd=tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert reason in errors
    assert len(errors.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_two_runs_are_compared_by_rules(run: Path, tmp_path: Path) -> None:
    asked = [
        "evaluate-preference",
        str(run),
        str(run),
        "--prompts",
        str(run.parent / "prompts.txt"),
    ]
    rules = ["--judge", str(run.parent / "rules.py")]
    process = runs.process(*asked, *rules, "--json", "--max-tokens", "4")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = json.loads(said)
    assert (found["win_rate"], found["ties"], found["n_prompts"]) == (0.5, 11, 11)  # with itself
    assert found["interval_95"] == pytest.approx(wilson(0.5, 11))
    assert found["reward"][0] == found["reward"][1]
    shown = runs.process(*asked, *rules, "--max-tokens", "4", "--show", "1")
    text, _ = shown.communicate(timeout=300)
    assert "0 wins, 11 ties, 0 losses" in " ".join(text.split())
    refused = runs.process(*asked)
    _, errors = refused.communicate(timeout=300)
    assert (refused.returncode, "--judge rules.py, or --reward RUN" in errors) == (2, True)


def test_a_judge_that_goes_by_the_side_decides_nothing(run: Path, tmp_path: Path) -> None:
    biased = tmp_path / "biased.py"
    biased.write_text("def judge(prompt, left, right): return 'left'", encoding="utf-8")
    asked = [
        "evaluate-preference",
        str(run),
        str(run),
        "--prompts",
        str(run.parent / "prompts.txt"),
    ]
    process = runs.process(*asked, "--judge", str(biased), "--json", "--max-tokens", "4")
    assert json.loads(process.communicate(timeout=300)[0])["ties"] == 11


def program(run: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bptool", *command(run, out, *more)]


def test_two_processes_do_not_write_one_file(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "prefs.jsonl"
    (tmp_path / "link.jsonl").symlink_to(out)
    first = subprocess.Popen(
        program(run, out, "--serve"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    rules = tmp_path / "rules.py"
    rules.write_text("def judge(prompt, left, right): return 'left'", encoding="utf-8")
    try:
        assert first.stdout is not None
        assert "Judge at" in first.stdout.readline()
        for name in ("prefs.jsonl", "link.jsonl"):
            for more in ((), ("--serve",), ("--judge", str(rules))):
                words = program(run, tmp_path / name, *more)
                second = subprocess.run(words, capture_output=True, text=True, check=False)
                assert second.returncode == 2, second.stderr
                assert second.stderr.count("\n") == 1
                assert f"{name} is in use: process {first.pid} on " in second.stderr
    finally:
        first.kill()
        first.communicate()
    done = subprocess.run(
        program(run, out, "--judge", str(rules)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "its lock is taken over" in done.stderr
    prompts = [json.loads(line)["prompt"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(prompts) == len(set(map(str, prompts))) > 0
    assert not list(tmp_path.glob("*.lock"))
