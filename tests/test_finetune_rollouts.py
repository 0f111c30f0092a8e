"""PPO and GRPO: learning from rewards, exact resume, failure states, and real commands."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs

from bptool.config.load import resolve
from bptool.errors import ConfigError, RunError
from bptool.objectives.mixed import Both, Mixed
from bptool.objectives.ppo import Rollout
from bptool.recipes.fine_tuning import settle_preferences, settle_rollouts
from bptool.training.answers_now import sample_answers
from bptool.training.events import Evaluated, StepDone
from bptool.training.failure_states import FIRST_STEPS, FailureWatch
from bptool.training.lessons import rollouts
from bptool.training.lessons.rollouts import Rollouts
from bptool.training.scorer import identity_of
from bptool.training.setup import build
from bptool.training.trained import open_run

NAMES = ("ann", "bob", "cat", "dan")
MODEL = runs.GPT2 | {"context": 48, "dropout": 0.0}
RULES = "def reward(prompt, answer):\n    return answer.count('a') / max(len(answer), 1)\n"


@pytest.fixture(scope="module")
def places(tmp_path_factory: Any) -> tuple[Path, Path, Path]:
    """A pretrained run, prompts, and rules."""
    folder = tmp_path_factory.mktemp("rollouts")
    with pytest.MonkeyPatch.context() as patch:
        runs.make_quick(patch, folder / "cache")
        text = folder / "text.txt"
        words = " ".join(f"{n} sees a {t}. who? {n}" for n in NAMES for t in ("hat", "tree", "dog"))
        text.write_text(20 * f"{words} big red hen cat dog\n", encoding="utf-8")
        runs.train(runs.config_of(runs.settings(text, MODEL)), folder / "base")
    prompts, rules = folder / "prompts.txt", folder / "rules.py"
    asked = [f"{n} sees a {t}. who?" for n in NAMES for t in ("hat", "dog", "hen", "red hat")]
    prompts.write_text("\n".join([*asked, "", asked[0]]) + "\n", encoding="utf-8")
    rules.write_text(RULES, encoding="utf-8")
    return folder / "base", prompts, rules


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs.make_quick(monkeypatch, tmp_path / "cache")


def request(
    places: tuple[Path, Path, Path], out: Path, objective: str, sets: Any = (), **changes: Any
) -> Any:
    run, prompts, rules = places
    shape = {"prompts": 8} if objective == "ppo" else {"prompts": 4, "answers": 4}
    options: dict[str, Any] = {
        "reward": str(rules),
        "prompts": [str(prompts)],
        "validation": [],
        "steps": 6,
        "skip_bad": False,
        "checkpoint": "best",
        "rollouts": {**shape, "max_tokens": 8, "end_penalty": 0.0},
        "sets": ["training.eval_interval=3", "training.batch_size=4", *sets],
        "out": out,
    }
    return settle_rollouts(run, objective, **options | changes)


@pytest.mark.parametrize("objective", ["ppo", "grpo"])
def test_rewards_rise_in_training_and_on_prompts_held_out(
    places: Any, tmp_path: Path, objective: str
) -> None:
    sets = ["optimizer.learning_rate=0.01", "rollouts.kl_weight=0.01", "rollouts.prompts=16"]
    asked = request(places, tmp_path / "run", objective, sets, steps=24)
    recorder = runs.train(asked.config, asked.folder.path)
    steps = [e.statistics for e in recorder.events if isinstance(e, StepDone)]
    rewards = [s["reward"] for s in steps]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.1
    assert steps[0]["KL, k1 per answer"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["KL, k3 per answer"] > 0.01
    assert steps[0]["entropy per token"] > 0
    assert steps[0]["answer length"] == 8
    judged = [e for e in recorder.events if isinstance(e, Evaluated)]
    assert judged[-1].statistics["reward"] > judged[0].statistics["reward"]
    own = {
        "ppo": {"value loss", "explained variance", "clip fraction", "KL weight", "policy loss"},
        "grpo": {"groups without variance", "clip fraction"},
    }
    assert own[objective] <= steps[0].keys()


@pytest.mark.parametrize("objective", ["ppo", "grpo"])
def test_stopped_and_resumed_equals_unbroken(places: Any, tmp_path: Path, objective: str) -> None:
    sets = ["model.dropout=0.1", "rollouts.kl_target=0.5", "training.micro_batch_size=2"]
    first = request(places, tmp_path / "unbroken", objective, sets)
    runs.train(first.config, tmp_path / "unbroken")
    runs.train(first.config, tmp_path / "resumed", stop_at=2)
    runs.resume(tmp_path / "resumed", stop_at=4)
    runs.resume(tmp_path / "resumed")
    assert runs.left_behind(tmp_path / "resumed") == runs.left_behind(tmp_path / "unbroken")


def test_the_scale_of_rewards_is_nothing_to_ppo(places: Any, tmp_path: Path) -> None:
    louder = tmp_path / "louder.py"
    louder.write_text(RULES.replace("return ", "return 8 * "), encoding="utf-8")
    weights = {}
    for normalise in (True, False):
        for rules in (places[2], louder):
            out = tmp_path / f"{rules.stem}-{normalise}"
            sets = [f"rollouts.normalise={str(normalise).lower()}"]
            asked = request((*places[:2], rules), out, "ppo", sets, steps=2)
            runs.train(asked.config, out)
            weights[rules.stem, normalise] = open_run(out, last=True).weights
    assert np.array_equal(weights["rules", True], weights["louder", True])
    assert not np.array_equal(weights["rules", False], weights["louder", False])


@pytest.mark.parametrize("objective", ["ppo", "dpo"])
def test_nothing_is_dropped_beside_a_reference(places: Any, tmp_path: Path, objective: str) -> None:
    run, parent = places[0], tmp_path / "parent"
    model = MODEL | {"dropout": 0.1, "stochastic_depth": 0.2}
    was = resolve(run / "config.yaml").config.model_dump(mode="json") | {"model": model}
    runs.train(resolve(None, defaults=was).config, parent)
    if objective == "ppo":
        asked = request((parent, *places[1:]), tmp_path / "run", objective)
    else:
        pairs = tmp_path / "pairs.jsonl"
        values = [
            {"prompt": f"{n} sees a hat. who?", "chosen": n, "rejected": "hat"} for n in NAMES
        ]
        pairs.write_text("".join(json.dumps(pair) + "\n" for pair in values), encoding="utf-8")
        asked = settle_preferences(
            *(parent, {"name": objective}),
            **{"data": [str(pairs)], "validation": [], "epochs": 1.0, "skip_bad": False},
            **{"checkpoint": "best", "sets": [], "out": tmp_path / "run"},
        )
    config = asked.config.model.config
    assert (max(config.dropout_sites()), config.depth().rate) == (0.0, 0.0)


def test_an_option_out_of_range_is_called_by_its_name(places: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--kl-weight -1.0: rollouts.kl_weight"):
        request(places, tmp_path / "run", "ppo", rollouts={"kl_weight": -1.0})
    with pytest.raises(ConfigError, match=r"^--prompts-per-step 1000000: rollouts.prompts"):
        request(places, tmp_path / "run", "grpo", rollouts={"prompts": 10**6})


def test_rules_that_changed_are_refused_on_a_resume(places: Any, tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(RULES, encoding="utf-8")
    asked = request((*places[:2], rules), tmp_path / "run", "grpo")
    runs.train(asked.config, tmp_path / "run", stop_at=2)
    rules.write_text(RULES + "\n# other\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"rules\.py is not the program that .* was trained with"):
        runs.resume(tmp_path / "run")


def test_a_reward_model_rewards_and_a_mix_keeps_what_was_pretrained(
    places: Any, tmp_path: Path
) -> None:
    pairs, run = tmp_path / "pairs.jsonl", places[0]
    values = [
        {"prompt": f"{n} sees a {t}. who?", "chosen": n, "rejected": t}
        for n in NAMES
        for t in ("hat", "dog", "hen")
    ]
    pairs.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    asked = settle_preferences(
        *(run, {"name": "reward"}),
        **{"data": [str(pairs)], "validation": [], "epochs": 1.0, "skip_bad": False},
        **{"checkpoint": "best", "sets": [], "out": tmp_path / "reward"},
    )
    runs.train(asked.config, tmp_path / "reward")
    text = tmp_path / "mix.txt"
    text.write_text(30 * "a big red hen sees a dog. ", encoding="utf-8")
    mixed = request(
        (run, places[1], tmp_path / "reward"),
        tmp_path / "ppo",
        "ppo",
        [f"rollouts.mix_text=[{text}]", "rollouts.mix_weight=0.5", "rollouts.kl_estimator=k3"],
        steps=2,
    )
    recorder = runs.train(mixed.config, tmp_path / "ppo")
    (first, _) = [e.statistics for e in recorder.events if isinstance(e, StepDone)]
    assert first["loss of the mix"] > 0


def test_answers_are_functions_of_seed_and_number(places: Any, tmp_path: Path) -> None:
    pieces = build(request(places, tmp_path / "run", "ppo").config)
    try:
        lesson = pieces.lesson
        assert isinstance(lesson, Rollouts)
        ids = lesson.prompts.train_ids[:3]

        def answers(some: Any, n: int, first: int, seed: int = 1) -> list[list[int]]:
            found = sample_answers(
                *(
                    pieces.step.shards,
                    pieces.step.params,
                    some,
                    n,
                    8,
                    lesson.prompts.rendering,
                    seed,
                    first,
                )
            )
            return [d.ids[d.n_prompt :].tolist() for d in found.documents]

        whole = answers(ids, 2, 10)
        assert whole == answers(ids, 2, 10)
        assert answers(ids[1:2], 2, 12) == whole[2:4]
        assert answers(ids, 2, 10, seed=2) != whole
        assert whole[0] != whole[1]
    finally:
        pieces.close()


def test_the_objective_of_a_mix_is_the_sum(
    places: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bptool.training.prompt_set._HASHED_TOKENS", 100)
    text = tmp_path / "mix.txt"
    text.write_text(30 * "a big red hen sees a dog. ", encoding="utf-8")
    sets = [f"rollouts.mix_text=[{text}]", "rollouts.mix_weight=0.5"]
    pieces = build(request(places, tmp_path / "run", "ppo", sets).config)
    try:
        lesson = pieces.lesson
        assert isinstance(lesson, Rollouts)
        ids = pieces.corpus.tokenizer.encode(text.read_text(encoding="utf-8"))
        assert lesson._mix is not None
        assert lesson._mix.dtype == np.uint16  # as the token file that it is mapped from
        assert lesson._mix.tolist() == ids.tolist()
        assert identity_of(places[2]) is None  # a program, which the manifest knows by itself
        for rewarded_by, found in (
            ("", pieces.corpus.text_sha256),
            ("ab", lesson.digest("ab")),  # what runs of earlier versions are known by
        ):
            digest = hashlib.sha256(lesson.prompts.sha256.encode() + rewarded_by.encode())
            digest.update(ids.tobytes())
            assert found == digest.hexdigest()
        sampled = lesson._sample(pieces.step.params, [0, 1], 2, 0)
        shards: Any = pieces.step.shards
        old = shards.outputs(pieces.step.params, sampled.rows)
        plain = lesson._rollout(sampled, *old, old.logp)
        rows, targets = lesson._with_mix(sampled.rows, 1)
        longer = Rollout(*(np.concatenate([x, np.zeros(x.size)]) for x in plain))
        objective, both = Mixed(lesson._objective, 0.5), Both(longer, targets)
        outputs = shards.outputs(pieces.step.params, rows)
        n = old.logp.size
        alone = lesson._objective.loss(plain, outputs.logp[:n], outputs.scores[:n])
        mix = -outputs.logp[n:].mean()
        assert objective.loss(both, *outputs) == pytest.approx(alone + 0.5 * mix, rel=1e-5)
        d = np.empty_like(outputs.logp), np.empty_like(outputs.scores)
        objective.gradient(both, *outputs, *d)
        assert d[0][n:] == pytest.approx(-0.5 / n)
        assert not d[1][n:].any()
    finally:
        pieces.close()


def watched(watch: FailureWatch, **now: float) -> list[str]:
    first = {
        "reward": 1.0,
        "reward deviation": 0.5,
        "answer length": 10.0,
        "entropy per token": 2.0,
    }
    first["KL, k3 per answer"] = 0.0
    said = []
    for step in range(40):
        keys = {
            "length": "answer length",
            "entropy": "entropy per token",
            "kl": "KL, k3 per answer",
        }
        changed = {keys.get(k, k): v for k, v in now.items()} if step >= FIRST_STEPS else {}
        said += [notice.text for notice in watch.after_step(step, first | changed)]
    return said


def test_failure_states_are_called_by_name_and_once() -> None:
    (hacked,) = watched(FailureWatch(None), reward=2.0, length=40.0)
    assert "reward hacking?" in hacked
    assert "10 to" in hacked
    (far,) = watched(FailureWatch(2.0), reward=2.0, kl=20.0)
    assert "reward hacking?" in far
    (collapsed,) = watched(FailureWatch(None), entropy=0.05)
    assert "collapse" in collapsed
    assert watched(FailureWatch(None), reward=2.0) == []
    assert watched(FailureWatch(None), length=40.0) == []  # the reward has not risen
    watch = FailureWatch(None)
    values = {"reward": 1.0, "reward deviation": 0.5, "KL, k3 per answer": 1.0}
    assert watch.after_evaluation(values, 0.5, 64) == []
    later = values | {"reward": 0.95, "KL, k3 per answer": 2.0}
    assert watch.after_evaluation(later, 0.5, 64) == []
    again = FailureWatch(None)
    again.load(json.loads(json.dumps(watch.state())))
    later |= {"reward": 0.5, "KL, k3 per answer": 3.0}
    (over,) = again.after_evaluation(later, 0.5, 64)
    assert "over-optimisation" in over.text
    later |= {"reward": 0.4, "KL, k3 per answer": 4.0}
    assert again.after_evaluation(later, 0.5, 64) == []


def test_constant_rewards_are_said_in_training_on_held_out_prompts_and_at_the_end() -> None:
    watch = FailureWatch(None)
    values = {"reward": 1.0, "reward deviation": 0.0, "answer length": 10.0}
    values |= {"entropy per token": 2.0, "KL, k3 per answer": 0.0}
    (said,) = [n.text for step in range(1, 6) for n in watch.after_step(step, values)]
    assert "step 3: so far all answers of a step have the same reward (1 in the mean)" in said
    again = FailureWatch(None)
    again.load(json.loads(json.dumps(watch.state())))
    (end,) = again.at_end()
    assert "in 5 of 5 steps all answers that were compared had the same reward" in end.text
    (held_out,) = again.after_evaluation(values, 0.0, 12)
    assert "all 12 answers to held-out prompts have the same reward, 1;" in held_out.text
    assert again.after_evaluation(values, 0.0, 12) == []
    varied = FailureWatch(None)
    watched(varied)
    assert varied.at_end() == []


def test_a_step_that_is_not_finite_spoils_neither_the_weight_nor_what_is_watched(
    places: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first is that of the model before training
    found = iter([(0.0, 0.0), (math.nan, math.nan), (math.inf, math.inf)])
    measure = rollouts.kl_of
    monkeypatch.setattr(rollouts, "kl_of", lambda *of: next(found, None) or measure(*of))
    sets = ["rollouts.kl_target=1", "rollouts.kl_weight=0.125"]
    asked = request(places, tmp_path / "run", "ppo", sets, steps=3)
    recorder = runs.train(asked.config, tmp_path / "run")
    steps = [e for e in recorder.events if isinstance(e, StepDone)]
    assert [e.statistics["KL weight"] for e in steps] == [0.125] * 3
    (state,) = (tmp_path / "run" / "checkpoints").glob("step-00000003/state.json")
    kept = json.loads(state.read_text())["lesson"]
    assert 0.1 < kept["kl_weight"] != 0.125  # the third step was finite
    assert kept["watch"]["n"] == 1


def test_the_commands(places: Any, tmp_path: Path) -> None:
    run, prompts, rules = places
    for command, more in (("ppo", ["--kl-target", "1"]), ("grpo", ["--answers", "2"])):
        out = tmp_path / command
        process = runs.process(
            *("finetune", command, str(run), "--reward", str(rules), "--prompts", str(prompts)),
            *("--steps", "2", "--prompts-per-step", "4", "--max-tokens", "8", *more),
            *("--out", str(out), "--quiet"),
        )
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Best held-out reward less penalties" in said
        assert "loss" not in said
    generated = runs.process("generate", str(tmp_path / "ppo"), "--max-tokens", "4")
    _, errors = generated.communicate(timeout=300)
    assert generated.returncode == 0, errors
    refused = runs.process(
        *("finetune", "ppo", str(run), "--reward", str(run), "--prompts", str(prompts))
    )
    _, errors = refused.communicate(timeout=300)
    assert (refused.returncode, "is no reward model" in errors) == (2, True), errors
