"""Learning from preferences: DPO, IPO, KTO and reward models, their resume, and real commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.cli.finetune.reliability import sentence
from bptool.errors import ConfigError, RunError, UserError
from bptool.feedback.prompts import PromptRecord
from bptool.feedback.win_rate import wilson
from bptool.plugins import name_rules
from bptool.recipes.fine_tuning import settle_preferences, settle_rollouts
from bptool.training.baselines import Share
from bptool.training.calibration import calibration_error, reliability
from bptool.training.events import Evaluated, Notice, StepDone, TrainingFinished
from bptool.training.fine_tuning import read_units
from bptool.training.lessons.pairs import Pairs
from bptool.training.reliability import PLOT, Reliability, draw, judge_pairs_run
from bptool.training.scorer import RuledRewards, Scorer
from bptool.training.setup import build
from bptool.training.trained import open_run
from bptool.training.workers import WorkerTeam

NAMES = ("ann", "bob", "cat", "dan")
THINGS = ("hat", "big red hen", "tree", "dog", "hen")
MODEL = runs.GPT2 | {"context": 48, "dropout": 0.0}


def spelt(number: int) -> str:
    """A number in letters that the run's tokenizer knows."""
    return str(number).translate(str.maketrans("0123456789", "abcdehnorg"))


def write_pairs(path: Path, n: int = 60, numbered: bool = False) -> Path:
    """Names are better answers than things."""
    values = []
    for i in range(n):
        name, thing = NAMES[i % 4], THINGS[i % 5]
        asked = f"{name} sees a {thing}. who?" + (f" {spelt(i)}" if numbered else "")
        values.append({"prompt": asked, "chosen": NAMES[i % 3], "rejected": THINGS[i % 4]})
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A pretrained run, and preferences."""
    folder = tmp_path_factory.mktemp("preferences")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        text = folder / "text.txt"
        words = " ".join(f"{n} sees a {t}. who? {n}" for n in NAMES for t in ("hat", "tree", "dog"))
        text.write_text(20 * f"{words} big red hen cat dog\n", encoding="utf-8")
        config = runs.config_of(runs.settings(text, MODEL))
        runs.train(config, folder / "base")
    return folder / "base", write_pairs(folder / "pairs.jsonl")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def request(
    places: tuple[Path, Path], out: Path, objective: str = "dpo", sets: Any = (), **changes: Any
) -> Any:
    run, data = places
    options: dict[str, Any] = {
        "data": [str(data)],
        "validation": [],
        "epochs": 2.0,
        "skip_bad": False,
        "checkpoint": "best",
        "out": out,
        "sets": ["training.batch_size=4", "training.eval_interval=4", *sets],
    }
    return settle_preferences(run, {"name": objective}, **options | changes)


def evaluations(recorder: runs.Recorder) -> list[Evaluated]:
    return [event for event in recorder.events if isinstance(event, Evaluated)]


LEARNING = ["optimizer.learning_rate=0.005", "data.split.validation_fraction=0.2"]


@pytest.mark.parametrize("objective", ["dpo", "ipo", "kto"])
def test_margins_grow_in_training_and_on_pairs_held_out(
    places: Any, tmp_path: Path, objective: str
) -> None:
    asked = request(places, tmp_path / "run", objective, LEARNING, epochs=3.0)
    recorder = runs.train(asked.config, asked.folder.path)
    steps = [event for event in recorder.events if isinstance(event, StepDone)]
    assert abs(steps[0].statistics["reward margin"]) < 1e-5  # the reference is where it starts
    judged = evaluations(recorder)
    assert judged[0].step == 0  # the model before training
    assert judged[-1].val_loss < judged[0].val_loss
    last = judged[-1].statistics
    assert last["reward margin"] > 0.05
    assert last["KL, k3 per answer"] > 0
    assert 1 <= last["answer length"] <= 48
    if objective != "kto":
        assert steps[0].loss == pytest.approx({"dpo": np.log(2), "ipo": 25.0}[objective], rel=1e-4)
        assert last["accuracy"] > 0.7


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_stopped_and_resumed_equals_unbroken(places: Any, tmp_path: Path, objective: str) -> None:
    sets = ["training.steps=8", "model.dropout=0.1", "training.micro_batch_size=2"]
    first = request(places, tmp_path / "unbroken", objective, sets)
    runs.train(first.config, tmp_path / "unbroken")
    runs.train(first.config, tmp_path / "resumed", stop_at=3)
    runs.resume(tmp_path / "resumed")
    found = [runs.measured(tmp_path / name) for name in ("resumed", "unbroken")]
    assert found[0] == found[1]
    hashes = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name / "checkpoints").rglob("*.safetensors")
        }
        for name in ("resumed", "unbroken")
    ]
    assert hashes[0] == hashes[1]


def test_a_reference_that_was_trained_on_is_refused(places: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    runs.train(runs.resolve(places[0] / "config.yaml").config, base)
    asked = request((base, places[1]), tmp_path / "run", sets=["training.steps=8"])
    runs.train(asked.config, tmp_path / "run", stop_at=4)
    runs.resume(base, ["training.steps=16"])
    with pytest.raises(RunError, match="is held to those weights"):
        runs.resume(tmp_path / "run")


def test_rows_micro_batches_and_workers_give_the_same_step(places: Any, tmp_path: Path) -> None:
    found = []
    for workers, micro in ((1, 4), (2, 2)):
        sets = [f"training.workers={workers}", f"training.micro_batch_size={micro}"]
        pieces = build(request(places, tmp_path / "run", sets=sets).config)
        try:
            assert isinstance(pieces.lesson, Pairs)
            taken = pieces.lesson.step(1, 1e-3)
            assert taken.n_tokens > 0.7 * pieces.lesson.tokens_per_step
            found.append((taken.result.grad_norm, pieces.step.weights.copy()))
        finally:
            pieces.close()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-5)


def test_a_reward_model_ranks_answers_it_has_not_seen(places: Any, tmp_path: Path) -> None:
    sets = [*LEARNING, "training.eval_interval=1000"]
    asked = request(places, tmp_path / "reward", "reward", sets, epochs=4.0)
    recorder = runs.train(asked.config, asked.folder.path)
    first = next(event for event in recorder.events if isinstance(event, StepDone))
    assert first.loss == pytest.approx(np.log(2), abs=1e-6)  # a new head gives 0 to all
    last = evaluations(recorder)[-1].statistics
    assert last["accuracy at least"] <= last["accuracy"] <= last["accuracy at most"]
    assert last["accuracy"] > 0.7
    found = judge_pairs_run(asked.folder.path)
    assert found.accuracy == pytest.approx(last["accuracy"])
    assert found.error == pytest.approx(last["calibration error"])
    assert sum(b.n for b in found.bins) == found.n
    draw(found, tmp_path / PLOT)
    assert (tmp_path / PLOT).stat().st_size > 5000
    with WorkerTeam(2) as team:
        scorer = Scorer(asked.folder.path, team)
        asked_of = [PromptRecord(f"{name} sees a dog. who?", {}, "") for name in NAMES]
        right = scorer.scores(asked_of, NAMES)
        wrong = scorer.scores(asked_of, THINGS[:4])
        assert right.mean() > wrong.mean()
        assert scorer.scores(asked_of[:1], NAMES[:1])[0] == pytest.approx(right[0], rel=1e-5)
        with pytest.raises(RunError, match="is no reward model"):
            Scorer(places[0], team)


def test_rules_score_answers_and_their_mistakes_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("def reward(prompt, answer):\n    return len(answer) / len(prompt)\n")
    prompts = [PromptRecord("abcd", {}, "")] * 2
    with pytest.raises(ConfigError, match="runs only when you name it"):
        RuledRewards(path).scores(prompts, ["ab", "abcd"])
    name_rules("--reward", path)
    assert RuledRewards(path).scores(prompts, ["ab", "abcd"]).tolist() == [0.5, 1.0]
    with pytest.raises(UserError, match="reward fails: ZeroDivisionError"):
        RuledRewards(path).scores([PromptRecord("", {}, "")], ["x"])
    other = tmp_path / "none.py"
    other.write_text("def judge(prompt, left, right):\n    return 'tie'\n")
    name_rules("--reward", other)
    with pytest.raises(ConfigError, match="has no function reward"):
        RuledRewards(other).check()


@pytest.mark.parametrize("objective", ["ipo", "ppo"])
def test_training_that_does_not_help_is_said_and_the_start_is_kept(
    places: Any, tmp_path: Path, objective: str
) -> None:
    out = tmp_path / "run"
    if objective == "ppo":  # a constant reward, which only the KL divergence can lower
        prompts, rules = tmp_path / "prompts.txt", tmp_path / "rules.py"
        prompts.write_text("".join(f"{n} sees a {t}.\n" for n in NAMES for t in THINGS))
        rules.write_text("def reward(prompt, answer):\n    return 1.0\n")
        options: dict[str, Any] = {"reward": str(rules), "prompts": [str(prompts)], "steps": 4}
        options |= {"validation": [], "skip_bad": False, "checkpoint": "best", "out": out}
        options |= {"rollouts": {"prompts": 4, "max_tokens": 4, "end_penalty": 0.0}}
        asked = settle_rollouts(places[0], "ppo", sets=["training.batch_size=4"], **options)
    else:  # the wrong way round
        data, held_out = tmp_path / "data.jsonl", tmp_path / "held_out.jsonl"
        values = [json.loads(line) for line in places[1].read_text().splitlines()]
        other = [v | {"chosen": v["rejected"], "rejected": v["chosen"]} for v in values]
        for path, some in ((data, values), (held_out, other[:12])):
            path.write_text("".join(json.dumps(v) + "\n" for v in some), encoding="utf-8")
        more: dict[str, Any] = {"validation": [str(held_out)], "epochs": 1.0}
        asked = request((places[0], data), out, "ipo", [LEARNING[0]], **more)
    recorder = runs.train(asked.config, out)
    said = [event.text for event in recorder.events if isinstance(event, Notice)]
    assert any(text.startswith("training did not help: at no evaluation was the ") for text in said)
    assert [e.step for e in evaluations(recorder) if e.is_best] == [0]
    assert open_run(out).step == 0
    if objective == "ppo":
        assert any("the same reward" in text for text in said)
        steps = [event for event in recorder.events if isinstance(event, StepDone)]
        assert steps[0].statistics["reward deviation"] == 0.0


def test_the_end_compares_with_what_needs_no_training(places: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = [*LEARNING, "training.steps=6", "data.split.validation_fraction=0.5"]
    more = {"judged_fraction": 0.4}
    data = write_pairs(tmp_path / "many.jsonl", 120, numbered=True)
    sets += [f"data.records.{key}={value}" for key, value in more.items()]
    asked = request((places[0], data), out, "dpo", sets)
    runs.train(asked.config, out)
    lines = [json.loads(x) for x in (out / "held-out.jsonl").read_text().splitlines()]
    assert lines[0] == {"format_version": 1, "kind": "bptool held-out"}
    used = [line["used_for"] for line in lines[1:]]
    assert (used.count("choosing"), used.count("judging")) == (36, 24)
    found = judge_pairs_run(out)
    assert (found.n, found.chosen_on_them) == (24, False)
    numbers = [int(line["place"].rpartition(":")[2]) for line in lines[37:]]
    values = [json.loads(x) for x in data.read_text().splitlines()]
    longer = [
        np.sign(len(values[n - 1]["chosen"]) - len(values[n - 1]["rejected"])) for n in numbers
    ]
    shares = {one.name: one.share for one in found.baselines}
    assert shares["the longer answer"] == pytest.approx(np.mean(0.5 + 0.5 * np.array(longer)))
    assert shares["the longer answer"] + shares["the shorter answer"] == pytest.approx(1)
    assert shares["chance"] == 0.5
    assert len(shares) == 4


def judged_as(share: float, n: int, chosen_on_them: bool = False, step: int = 3) -> Reliability:
    rules = [Share("chance", 0.5, (0.5, 0.5)), Share("the shorter answer", 0.588, (0.5, 0.66))]
    return Reliability(n, share, wilson(share, n), 0.1, (), step, chosen_on_them, tuple(rules))


def test_the_sentence_at_the_end_says_no_more_than_the_pairs_do() -> None:
    guessing = sentence(judged_as(0.554, 148, chosen_on_them=True))
    assert guessing == (
        "The model of step 3 agrees with 55.4 % of 148 held-out pairs (95 % interval 47.4 to "
        "63.2 %), calibration error 0.100; this cannot be told from guessing (50 %); choosing the "
        "shorter answer (58.8 %) is as good or better; the checkpoint was chosen on these same "
        "pairs, so that others may agree less"
    )
    good = sentence(judged_as(0.8, 200))
    assert "guessing" not in good
    assert "better" not in good
    assert "chosen on" not in good
    assert "not clearly better than choosing the shorter" in sentence(judged_as(0.62, 200))
    assert "worse than guessing" in sentence(judged_as(0.3, 200))
    assert sentence(judged_as(0.5, 20, step=0)).startswith("The model before training agrees")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ((True,) * 20, "all 18 answers to train on are desirable, none is undesirable"),
        ((False,) * 20, "all 18 answers to train on are undesirable, none is desirable"),
        ((True,) * 9 + (False,), "objective.undesirable_weight="),
        ((True, False), None),
    ],
)
def test_kto_says_what_it_has_of_each_kind(
    places: Any, tmp_path: Path, labels: Any, reason: str | None
) -> None:
    data = tmp_path / "data.jsonl"
    values = [
        {"prompt": f"{spelt(i)} who?", "completion": NAMES[i % 4], "label": labels[i % len(labels)]}
        for i in range(20)
    ]
    data.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    asked = request((places[0], data), tmp_path / "run", "kto", ["training.steps=2"])
    recorder = runs.train(asked.config, tmp_path / "run")
    said = [event.text for event in recorder.events if isinstance(event, Notice)]
    found = [text for text in said if "to train on are" in text]
    assert [reason in text for text in found] == ([] if reason is None else [True])
    shown = [e for e in recorder.events if isinstance(e, StepDone | Evaluated)]
    if len(set(labels)) == 1:
        kind = "rejected reward" if labels[0] else "chosen reward"
        assert all({"reward margin", kind}.isdisjoint(e.statistics) for e in shown)


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_turns_are_written_by_a_template_where_the_parent_has_none(
    places: Any, tmp_path: Path, objective: str
) -> None:
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ann"},
        {"role": "user", "content": "who?"},
    ]
    data = tmp_path / "talk.jsonl"
    values = [
        {"prompt": [*talk[:2], {"role": "user", "content": f"{n} who?"}]}
        | {"chosen": n, "rejected": "hat"}
        for n in NAMES
    ]
    data.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    out = tmp_path / "run"
    sets = ["training.steps=2", "training.seed=3"]
    asked = request((places[0], data), out, objective, sets)
    assert asked.config.chat.template == "roles"
    assert "turns are written as roles has them" in asked.notes[0]
    runs.train(asked.config, out)
    parent, run = open_run(places[0]), open_run(out, last=True)
    assert run.tokenizer.vocab_size == parent.tokenizer.vocab_size + 4
    units = read_units(run.config, run.tokenizer, run.model.context)
    text = run.tokenizer.decode(units.train[0].first.ids.tolist())
    assert text.startswith("<|user|>hi<|end|><|assistant|>ann<|end|><|user|>")
    plain = request(places, tmp_path / "plain", objective)
    assert plain.config.chat is None
    assert "each answer continues its prompt" in plain.notes[0]
    named = request(places, tmp_path / "named", objective, template="roles")
    assert (named.config.chat.template, named.notes) == ("roles", ())


def test_calibration_of_a_model_that_is_as_sure_as_it_is_right() -> None:
    rng = np.random.default_rng(2)
    margins = rng.normal(scale=2, size=20_000)
    right = rng.random(margins.size) < 1 / (1 + np.exp(-np.abs(margins)))
    assert calibration_error(np.where(right, 1, -1) * np.abs(margins)) < 0.02
    assert calibration_error(np.full(10, 50.0)) == pytest.approx(0)
    assert calibration_error(np.full(10, -50.0)) == pytest.approx(1)
    assert [b.n for b in reliability(np.array([0.0, 50.0]))] == [1, *[0] * 8, 1]


def test_what_was_left_out_is_said(places: Any, tmp_path: Path) -> None:
    data = tmp_path / "mixed.jsonl"
    more = [
        {"prompt": "x", "chosen": None, "rejected": None, "choice": "tie"},
        {"prompt": 30 * "big hen", "chosen": "ann", "rejected": "bob"},
        {"bad": 1},
    ]
    lines = "".join(json.dumps(value) + "\n" for value in more)
    data.write_text(places[1].read_text(encoding="utf-8") + lines, encoding="utf-8")
    asked = request((places[0], data), tmp_path / "run", sets=["training.steps=1"], skip_bad=True)
    recorder = runs.train(asked.config, tmp_path / "run")
    said = [event.text for event in recorder.events if isinstance(event, Notice)]
    (left_out,) = [text for text in said if "left out" in text]
    assert left_out == (
        "3 records were left out: 1 without chosen and rejected, 1 a tie or a skip, "
        "1 longer than the model's context of 48 tokens"
    )
    assert "the key 'bad' of 1 record is not used" not in said
    ends = [event for event in recorder.events if isinstance(event, TrainingFinished)]
    assert ends[-1].left_out == left_out


def test_the_commands(places: Any, tmp_path: Path) -> None:
    run, data = places
    common = ["--data", str(data), "--epochs", "1", "--set", "training.batch_size=4"]
    for command, more in (("dpo", ["--beta", "0.2"]), ("reward", [])):
        out = tmp_path / command
        arguments = ["finetune", command, str(run), *common, *more, "--out", str(out), "--quiet"]
        process = runs.process(*arguments)
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Best validation loss" in said
        assert "held-out pairs (95 % interval " in said
        assert "; the checkpoint was chosen on these same pairs" in said
    refused = runs.process("finetune", "dpo", str(run), *common, "--loss", "dbo")
    _, errors = refused.communicate(timeout=300)
    assert (refused.returncode, "known are dpo, ipo, kto" in errors) == (2, True), errors
    generated = runs.process(
        "generate", str(tmp_path / "dpo"), "--prompt", "ann", "--max-tokens", "4"
    )
    _, errors = generated.communicate(timeout=300)
    assert generated.returncode == 0, errors
