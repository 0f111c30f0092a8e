"""Comparing the answers of two runs in the foreground: generating, judging, and what is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bptool.cli import terminal, wording
from bptool.cli.feedback_session import answering

if TYPE_CHECKING:
    from bptool.cli.console import Console
    from bptool.feedback.prompts import PromptRecord
    from bptool.feedback.rules import Rules
    from bptool.feedback.win_rate import WinRate
    from bptool.inference.answers import Answer, Prompt

COLUMNS = ("A", "B")


@dataclass(frozen=True)
class Request:
    """What the command was asked for; see its options."""

    runs: tuple[Path, Path]
    prompts: list[Path]
    judge: Path | None
    reward: Path | None
    limit: int | None
    max_tokens: int
    temperature: float
    seed: int
    last: bool
    show: int
    json: bool


def compare(request: Request) -> None:
    """Answer every prompt with both runs, decide, and say the win rate."""
    from bptool.cli.console import Console
    from bptool.data.record_report import RecordReport
    from bptool.feedback.prompts import read_prompt_records, refuse_conversations
    from bptool.feedback.rules import Rules
    from bptool.inference.sampling import Sampling
    from bptool.training.trained import open_run

    sampling = Sampling(request.temperature, None, None, request.seed)
    rules_file = request.judge
    if rules_file is None and request.reward is not None and not request.reward.is_dir():
        rules_file = request.reward
    rules = Rules(rules_file) if rules_file else None
    report = RecordReport()
    records = read_prompt_records(request.prompts, report)[: request.limit]
    report.refuse(remedy="mend them")
    prompts = [record.prompt for record in records]
    if rules is not None:
        for record in records:
            rules.check(record.columns, record.place)
    opened = [open_run(run, request.last) for run in request.runs]
    if any(run.config.chat is None for run in opened):
        refuse_conversations(records)
    answers: list[list[Answer]] = []
    for run in opened:
        with answering(run) as answerer:
            found = answerer.answers(prompts, 1, request.max_tokens, sampling)
        answers.append([one for (one,) in found])
    if rules is not None:
        rate, columns = _by_rules(rules, records, answers)
    else:
        assert request.reward is not None
        rate, columns = _by_reward_run(request.reward, records, answers)
    columns |= _lengths(answers)
    if request.json:
        values = {**rate.to_json(), **{name: list(pair) for name, pair in columns.items()}}
        terminal.json(values)
        return
    console = Console()
    _print(request, console, rate, columns)
    _print_pairs(request.show, console, prompts, answers)


Columns = dict[str, tuple[float, float]]
"""Means by name, of A and of B."""


def _by_rules(
    rules: Rules, records: Sequence[PromptRecord], answers: Sequence[Sequence[Answer]]
) -> tuple[WinRate, Columns]:
    from bptool.feedback.prompts import said_last
    from bptool.feedback.win_rate import count

    score = {"left": 1.0, "tie": 0.0, "right": -1.0}
    decided, rewards, correct = [], [], []
    for record, *pair in zip(records, *answers, strict=True):
        asked, more = said_last(record.prompt), record.columns
        a, b = (answer.text for answer in pair)
        one_way = score[rules.judge(asked, a, b, more)]
        other_way = -score[rules.judge(asked, b, a, more)]
        decided.append(one_way if one_way == other_way else 0.0)
        if rules.rewards:
            rewards.append((rules.reward(asked, a, more), rules.reward(asked, b, more)))
        if rules.knows_correct:
            correct.append((rules.correct(asked, a, more), rules.correct(asked, b, more)))
    columns: Columns = {}
    if correct:
        columns["correct"] = _means(correct)
    if rewards:
        columns["reward"] = _means(rewards)
    return count(decided, [0.0] * len(decided)), columns


def _by_reward_run(
    reward: Path, records: Sequence[PromptRecord], answers: Sequence[Sequence[Answer]]
) -> tuple[WinRate, Columns]:
    from bptool.feedback.win_rate import count
    from bptool.ops.cores import usable_cores
    from bptool.training.scorer import Scorer
    from bptool.training.workers import WorkerTeam

    with WorkerTeam(usable_cores()) as team:
        scorer = Scorer(reward, team)
        scorer.check(records)
        scores = [scorer.scores(records, [one.text for one in own]) for own in answers]
    a, b = ([float(x) for x in own] for own in scores)
    return count(a, b), {"reward": _means(list(zip(a, b, strict=True)))}


def _lengths(answers: Sequence[Sequence[Answer]]) -> Columns:
    tokens = [[float(len(one.tokens)) for one in own] for own in answers]
    ended = [[float(one.ended) for one in own] for own in answers]
    return {
        "tokens an answer": _means(list(zip(*tokens, strict=True))),
        "answers that end": _means(list(zip(*ended, strict=True))),
    }


def _means(pairs: Sequence[tuple[float, ...]]) -> tuple[float, float]:
    n = len(pairs)
    return sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n


def _print(request: Request, console: Console, rate: WinRate, columns: Columns) -> None:
    from rich.table import Table
    from rich.text import Text

    low, high = rate.interval
    a, b = (wording.near_path(str(run)) for run in request.runs)
    console.print(
        f"A {a} against B {b}, {rate.n:,} prompts: {rate.wins} wins, {rate.ties} ties, "
        f"{rate.losses} losses",
        highlight=False,
    )
    console.print(
        Text(
            f"win rate {100 * rate.rate:.1f} %, 95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f} % (Wilson; a tie counts half)",
            style="bold",
        )
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("mean", *COLUMNS):
        table.add_column(heading, justify="left" if heading == "mean" else "right")
    for name, pair in columns.items():
        is_share = name in ("correct", "answers that end")
        shown = (f"{100 * x:.1f} %" if is_share else f"{x:.3g}" for x in pair)
        table.add_row(name, *shown)
    console.print(table)


def _print_pairs(
    n: int, console: Console, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]
) -> None:
    from rich.text import Text

    from bptool.feedback.prompts import said_last

    for prompt, *pair in list(zip(prompts, *answers, strict=True))[:n]:
        console.print()
        console.print(Text(terminal.visible(said_last(prompt)), style="dim"))
        for name, answer in zip(COLUMNS, pair, strict=True):
            console.print(Text.assemble((f"{name} ", "bold"), terminal.visible(answer.text)))
