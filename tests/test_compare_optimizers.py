"""``bptool compare-optimizers`` from the command line, on a tiny model."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bptool.cli.main import main

YAML = """
model: {name: mlp, window: 2, n_embd: 4, n_hidden: 8, context: 8, dropout: 0.1}
data: {text: book.txt, tokenizer: char}
training: {steps: 50, batch_size: 4, seed: 3, workers: 2, eval_interval: 20, eval_tokens: 200}
optimizer: {name: adamw, learning_rate: 0.03}
schedule: {name: cosine, warmup_steps: 10}
sample: {max_tokens: 4}
"""
TEXT = "the cat sat on the mat; the dog ran to the cat and sat.\n" * 60

PLUGIN = '''
"""Steps along the sign of the gradient."""
import numpy as np
from bptool.optim.base import Optimizer, OptimizerConfig
from bptool.registry import optimizers

@optimizers.register("test-sign")
class Sign(Optimizer):
    Config = OptimizerConfig

    def update(self, w, g, slots, *, learning_rate, weight_decay, grad_scale, step):
        w -= np.float32(learning_rate) * np.sign(g)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its text."""
    path = tmp_path_factory.mktemp("compare")
    (path / "config.yaml").write_text(YAML, encoding="utf-8", newline="\n")
    (path / "book.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    return path


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def study(folder: Path) -> subprocess.CompletedProcess[str]:
    """A whole study in a process of its own: 2 optimizers, one of which diverges, and 2 seeds."""
    words = ["compare-optimizers", "config.yaml", "--optimizers", "sgd,adamw", "--steps", "5"]
    words += ["--seeds", "2", "--out", "study", "--learning-rate", "sgd=1e6"]
    environment = {**os.environ, "BPTOOL_CACHE_DIR": str(folder / "cache"), "COLUMNS": "100"}
    environment |= {"PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-m", "bptool", *words],
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        env=environment,
        check=False,
    )


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_table_ranks_the_diverged_optimizer_last(
    study: subprocess.CompletedProcess[str],
) -> None:
    assert study.returncode == 0, study.stderr
    lines = [line.split() for line in study.stdout.splitlines()]
    losses = {words[0]: words for words in lines if "±" in words or "diverged" in words}
    assert losses["adamw"][2] == "±"
    assert 0 < float(losses["adamw"][1]) < 5
    assert losses["sgd"][1:5] == ["2", "of", "2", "diverged"]
    assert lines.index(losses["sgd"]) > lines.index(losses["adamw"])
    assert "1e+06, given" in " ".join(losses["sgd"])
    assert "0.03, configuration" in " ".join(losses["adamw"])
    assert "none tuned" not in study.stdout
    costs = {words[0]: words for words in lines if words[-1:] in (["B"], ["kB"])}
    assert costs["sgd"][1:6] == ["0", "of", "2", "never", "never"]
    assert costs["sgd"][-2:] == ["0", "B"]  # plain SGD has no state
    assert "A bigram model of the training text has a loss of " in study.stdout
    assert "schedule.warmup_steps: 10 -> 1" in study.stdout
    assert "trial 4 of 4" in study.stdout


def test_results_are_complete(study: subprocess.CompletedProcess[str], folder: Path) -> None:
    header, *lines = records(folder / "study" / "results.jsonl")
    assert header["format_version"] == 2
    manifest = header["manifests"]["config"]
    assert manifest["workers"] == 2
    assert {"versions", "machine", "engine", "data"} <= set(manifest)
    trials = [line for line in lines if line["kind"] == "trial"]
    assert sorted((t["optimizer"], t["seed"], t["data_seed"], t["status"]) for t in trials) == [
        ("adamw", 3, 3, "completed"),
        ("adamw", 4, 4, "completed"),
        ("sgd", 3, 3, "diverged"),
        ("sgd", 4, 4, "diverged"),
    ]
    for trial in trials:
        assert trial["config"]["optimizer"]["name"] == trial["optimizer"]
        assert trial["curve"][0]["step"] == 0
        done = trial["status"] == "completed"
        assert (trial["final_loss"] is not None) == done
        if done:
            assert [point["step"] for point in trial["curve"]] == [0, 2, 4, 5]
            assert trial["curve"][-1]["val_loss"] == trial["final_loss"]
            assert trial["state_bytes"] // 4 >= 2 * manifest["n_parameters"]
    assert {line["optimizer"] for line in lines if line["kind"] == "timing"} == {"sgd", "adamw"}
    assert (folder / "study" / "curves-config.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "study" / "report.html").exists()


def test_optimizers_begin_at_the_same_weights_and_see_the_same_batches(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare-optimizers", "config.yaml", "--optimizers", "sgd,momentum,rmsprop,adamw"]
    assert main([*words, "--steps", "3", "--seeds", "2", "--out", "paired", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (workload,) = report["workloads"]
    assert len(workload["optimizers"]) == 4
    assert workload["optimizers"][0]["seeds"] == [3, 4]
    lines = records(folder / "paired" / "results.jsonl")
    trials = [line for line in lines if line["kind"] == "trial"]
    by_seed = {seed: [t for t in trials if t["seed"] == seed] for seed in (3, 4)}
    for key in ("weights_sha256", "batches_sha256"):
        found = {seed: {trial[key] for trial in group} for seed, group in by_seed.items()}
        assert [len(values) for values in found.values()] == [1, 1]
        assert found[3] != found[4]
    # The rules are not the same, or the same weights and batches would prove nothing.
    assert len({trial["final_loss"] for trial in by_seed[3]}) == 4
    assert len({trial["curve"][0]["val_loss"] for trial in by_seed[3]}) == 1


def test_the_command_of_every_trial_replays_it(folder: Path) -> None:
    words = ["compare-optimizers", "config.yaml", "--optimizers", "sgd,schedule-free-adamw"]
    words += ["--ruleset", "tuned", "--trials", "2", "--steps", "5", "--seeds", "2"]
    assert main([*words, "--out", "whole", "--quiet"]) == 0
    trials = [t for t in records(folder / "whole" / "results.jsonl") if t.get("kind") == "trial"]
    assert len(trials) == 8
    for trial in trials:
        replay(trial)


def test_a_diverged_trial_replays_until_it_diverges(
    study: subprocess.CompletedProcess[str], folder: Path
) -> None:
    lines = records(folder / "study" / "results.jsonl")
    replay(next(t for t in lines if t.get("status") == "diverged"))


def replay(trial: dict[str, Any]) -> None:
    program, *words = shlex.split(trial["command"])
    assert program == "bptool"
    code = main([*words, "--quiet"])
    assert code == 0 or trial["status"] == "diverged"
    run = Path(words[words.index("--out") + 1])
    evaluations = [r for r in records(run / "metrics.jsonl") if r.get("kind") == "evaluation"]
    replayed = {record["step"]: record["val_loss"] for record in evaluations}
    curve = {p["step"]: p["val_loss"] for p in trial["curve"] if p["step"]}
    expected = {step: loss for step, loss in curve.items() if loss is not None}
    assert {step: replayed.get(step) for step in expected} == expected
    assert trial["status"] == "diverged" or replayed.keys() == expected.keys()


STUDY = """\
workloads: [{config: config.yaml}]
optimizers: [adamw, sgd]
ruleset: tuned
"""


@pytest.mark.parametrize(
    ("words", "study", "message"),
    [
        (["config.yaml", "--optimizers", "sgd,admw"], "", "unknown optimizer 'admw'; did you mean"),
        ([], "optimizers: [adamw, sgdm]", "optimizers.1: unknown optimizer 'sgdm'; did you mean"),
        ([], "spaces: {sgd: {}}", "spaces.sgd: an empty search space; name a setting of sgd"),
        ([], "spaces: {sgd: {learning_rate: {low: 1, high: 1}}}", "high: an empty range"),
        ([], "tuning: {budget: 1}", "1 trials cannot be shared by 2 optimizers; give at least 2"),
        (
            [],
            "settings: {sgd: {learning_rate: 1}}",
            "mixed rulesets: 'tuned' searches",
        ),
        (["--ruleset", "defaults"], "tuning: {trials: 3}", "tuning: mixed rulesets: 'defaults'"),
        (["config.yaml", "--trials", "4"], "", "tuning: mixed rulesets: 'defaults' tunes nothing"),
        ([], "workloads: [{config: missing.yaml}]", "workload 'missing' cannot run: "),
        ([], "workloads: [{config: config.yaml, set: {model: {context: 9999}}}]", "cannot run: "),
        ([], "workloads: [{config: config.yaml, set: {model: {name: gpt2, n_head: 7}}}]", "n_head"),
        (
            [],
            "settings: {sgd: {groups: [{match: nothing, learning_rate_factor: 2}]}}",
            "optimizer 'sgd' cannot run on workload 'config': ",
        ),
        (["config.yaml", "study.yaml"], "", "study.yaml is a study, which names its own workloads"),
        (["--target", "2"], "steps: 5", "--target is for a CONFIG.yaml; study.yaml has target:"),
        (["config.yaml", "config.yaml", "--target", "2"], "", "--target is one workload's loss"),
        (["config.yaml", "--target", "-1"], "", "target: found -1"),
        (["config.yaml", "--seeds", "0"], "", "final.seeds: found 0"),
    ],
)
def test_a_bad_study_is_one_line_before_anything_starts(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    study: str,
    message: str,
) -> None:
    key = study.partition(":")[0]
    kept = [line for line in STUDY.splitlines() if not study or not line.startswith(f"{key}:")]
    (folder / "study.yaml").write_text("\n".join([*kept, study, ""]), encoding="utf-8")
    named = words if "config.yaml" in words else ["study.yaml", *words]
    assert main(["compare-optimizers", *named, "--out", "refused"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (folder / "refused").exists()


def test_several_configurations_are_several_workloads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wide.yaml").write_text(YAML.replace("n_hidden: 8", "n_hidden: 16"), encoding="utf-8")
    words = ["compare-optimizers", "config.yaml", "wide.yaml", "--optimizers", "adamw,sgd"]
    words += ["--ruleset", "tuned", "--trials", "3", "--steps", "6", "--seeds", "2"]
    assert main([*words, "--out", "several"]) == 0
    out = capsys.readouterr().out
    assert "tau 1.5" in out
    report = json.loads((folder / "several" / "report.json").read_text(encoding="utf-8"))
    assert [one["workload"] for one in report["workloads"]] == ["config", "wide"]
    assert "## wide" in (folder / "several" / "tables.md").read_text(encoding="utf-8")


def test_settings_at_the_edge_of_their_space_are_offered_a_wider_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In six steps at tiny rates the highest is best, and one of sixteen lies in the last tenth."""
    (folder / "edges.yaml").write_text(
        "workloads: [{config: config.yaml}]\noptimizers: [adamw, sgd]\nruleset: tuned\nsteps: 6\n"
        "tuning: {trials: 16}\nfinal: {seeds: 2}\nspaces:\n"
        "  adamw: {learning_rate: {low: 1.0e-6, high: 1.0e-5}}\n"
        "  sgd: {learning_rate: {low: 1.0e-5, high: 1.0e-3}}\n",
        encoding="utf-8",
    )
    assert main(["compare-optimizers", "edges.yaml", "--out", "edges"]) == 0
    out = capsys.readouterr().out
    report = json.loads((folder / "edges" / "report.json").read_text(encoding="utf-8"))
    rows = report["workloads"][0]["optimizers"]
    assert [list(row["tuning"]["edges"]) for row in rows] == [["learning_rate"]] * 2
    assert "bptool compare-optimizers edges/widened.yaml" in out
    assert main(["compare-optimizers", "edges/widened.yaml", "--out", "wider", "--quiet"]) == 0
    wider = records(folder / "wider" / "results.jsonl")[0]
    (old, new) = (records(folder / name / "results.jsonl")[0] for name in ("edges", "wider"))
    assert new["study"]["spaces"] != old["study"].get("spaces")
    same = ("model", "data", "training", "schedule")
    for before, after in zip(old["workloads"], wider["workloads"], strict=True):
        assert [before["config"][key] for key in same] == [after["config"][key] for key in same]


def test_a_target_is_reached_or_missed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare-optimizers", "config.yaml", "--optimizers", "adamw", "--steps", "4"]
    for target, reached in (("9.5", 2), ("0.01", 0)):
        out = f"target-{reached}"
        assert main([*words, "--seeds", "2", "--target", target, "--out", out, "--json"]) == 0
        (workload,) = json.loads(capsys.readouterr().out)["workloads"]
        assert workload["target"] == float(target)
        assert workload["optimizers"][0]["n_reached"] == reached


def test_the_first_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bptool.comparison.results import ResultsFolder

    add = ResultsFolder.add

    def interrupt(self: ResultsFolder, *arguments: Any) -> Any:
        found = add(self, *arguments)
        signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(ResultsFolder, "add", interrupt)
    words = ["compare-optimizers", "config.yaml", "--optimizers", "sgd,adam", "--steps", "3"]
    words += ["--processes", "1"]
    before = signal.getsignal(signal.SIGINT)
    assert main([*words, "--seeds", "2", "--out", "stopped", "--quiet"]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    err = capsys.readouterr().err
    assert "stopped: 1 of 4 trials are done; go on with: bptool compare-optimizers" in err
    assert len(records(folder / "stopped" / "results.jsonl")) == 2
    monkeypatch.setattr(ResultsFolder, "add", add)
    assert main(["compare-optimizers", "--resume", "stopped", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_done"], report["interrupted"]) == (4, False)
    assert main(["compare-optimizers", "--resume", "stopped", "--seeds", "9"]) == 2
    assert "goes on with the study as it began" in capsys.readouterr().err


def test_an_optimizer_of_ones_own_takes_part(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sign.py").write_text(PLUGIN, encoding="utf-8")
    words = ["compare-optimizers", "config.yaml", "--optimizers", "test-sign", "--steps", "3"]
    words += ["--seeds", "1", "--plugin", "sign.py", "--out", "plugin", "--quiet"]
    assert main(words) == 2
    assert "no default learning rate; add --learning-rate test-sign=" in capsys.readouterr().err
    assert main([*words, "--learning-rate", "test-sign=0.01"]) == 0
    assert "test-sign" in capsys.readouterr().out
    trial = records(folder / "plugin" / "results.jsonl")[1]
    assert shlex.split(trial["command"])[-2:] == ["--plugin", str((folder / "sign.py").resolve())]
    assert trial["final_loss"] < trial["curve"][0]["val_loss"]
    (folder / "sign.py").write_text("raise SystemExit('ran a program that nobody named')\n")
    name = next(name for name in sys.modules if name.startswith("bptool_plugin_sign_"))
    loaded = sys.modules.pop(name)
    capsys.readouterr()
    assert main(["compare-optimizers", "--resume", "plugin"]) == 2
    error = capsys.readouterr().err
    assert "run only when you name them" in error
    assert f"--plugin {shlex.quote(trial['command'].split()[-1])}" in error
    assert "nobody named" not in error
    resume = ["compare-optimizers", "--resume", "plugin", "--plugin", "sign.py", "--quiet"]
    assert main(resume) == 2
    error = capsys.readouterr().err
    assert "sign.py is not the program that plugin was begun with: its sha256 was" in error
    assert "nobody named" not in error
    assert main([*resume, "--accept-changes"]) == 2
    assert "nobody named" in capsys.readouterr().err  # it ran
    changed = records(folder / "plugin" / "results.jsonl")[-1]
    assert (changed["kind"], changed["plugin"]) == ("accepted", str((folder / "sign.py").resolve()))
    (folder / "sign.py").write_text(PLUGIN, encoding="utf-8")
    sys.modules[name] = loaded
    assert main([*resume, "--accept-changes"]) == 0
    assert main(resume) == 0
