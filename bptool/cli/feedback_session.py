"""Collecting judgements in the foreground: from a terminal, a page, or a file of rules."""

from __future__ import annotations

import contextlib
import getpass
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bptool.cli import terminal, wording
from bptool.errors import UserError
from bptool.files import encoded

if TYPE_CHECKING:
    from bptool.cli.console import Console
    from bptool.feedback.prompts import PromptRecord
    from bptool.feedback.rules import Rules
    from bptool.feedback.session import Session
    from bptool.inference.answers import Answerer
    from bptool.inference.sampling import Sampling
    from bptool.training.trained import TrainedRun


@dataclass(frozen=True)
class Request:
    """What the command was asked for; see its options."""

    run: Path
    prompts: list[Path]
    out: Path
    reviewer: str | None
    judge: Path | None
    limit: int | None
    max_tokens: int
    temperature: float
    top_k: int | None
    seed: int
    last: bool
    port: int | None
    json: bool


@contextlib.contextmanager
def answering(run: TrainedRun) -> Iterator[Answerer]:
    """What answers with the model of ``run``, by its template if it has one."""
    from bptool.inference.answers import Answerer
    from bptool.ops.cores import usable_cores
    from bptool.registry import templates
    from bptool.training.workers import WorkerTeam

    chat = run.config.chat
    template = templates.get(chat.template)() if chat else None
    with WorkerTeam(usable_cores()) as team:
        yield Answerer(run.model, run.params, team, run.tokenizer, template)


def collect(request: Request) -> None:
    """Show pair after pair until all are judged or the reviewer quits."""
    from bptool.data.record_report import RecordReport
    from bptool.feedback.prompts import read_prompt_records
    from bptool.feedback.rules import Rules
    from bptool.inference.sampling import Sampling
    from bptool.training.lock import lock_of_file

    sampling = Sampling(request.temperature, request.top_k, None, request.seed)
    rules = Rules(request.judge) if request.judge else None
    report = RecordReport()
    records = read_prompt_records(request.prompts, report)[: request.limit]
    report.refuse(remedy="mend them")
    if rules is not None:
        for record in records:
            rules.check(record.columns, record.place)
    if request.out.exists() and not request.out.is_file():
        raise UserError(f"{request.out} is no regular file; name a file of judgements with --out")
    if not request.out.absolute().parent.is_dir():
        raise UserError(f"{request.out.parent}: no such folder; make it, or name another --out")
    lock = lock_of_file(request.out)
    lock.acquire()
    try:
        if lock.notice:
            terminal.line(f"note: {lock.notice}", err=True)
        _collect(request, records, rules, sampling)
    finally:
        lock.release()


def _collect(
    request: Request, records: Sequence[PromptRecord], rules: Rules | None, sampling: Sampling
) -> None:
    """The same, while no other process writes to the file of judgements."""
    from bptool.cli.console import Console
    from bptool.feedback.prompts import refuse_conversations
    from bptool.feedback.session import Session
    from bptool.feedback.store import Store
    from bptool.training.trained import open_run

    console = Console()
    store = Store(request.out)
    run = open_run(request.run, request.last)
    if run.config.chat is None:
        refuse_conversations(records)
    source = {"run": _named(request.run), "step": run.step}
    source |= {} if request.judge is None else {"rules": _named(request.judge)}
    with answering(run) as answerer:
        session = Session(
            *(answerer, [record.prompt for record in records], store, _reviewer(request), sampling),
            *(request.max_tokens, source),
        )
        if rules is not None:
            _by_rules(session, rules, records, console, silent=request.json)
        elif request.port is not None:
            from bptool.cli.feedback_page import serve

            serve(session, console, request.port)
        else:
            from bptool.cli.feedback_terminal import ask

            ask(session, console)
    if request.json:
        terminal.json(_summary(session))
    else:
        _say(session, console)


def _named(path: Path) -> str:
    """A path as a file of JSON can hold it."""
    return encoded(str(path.absolute())).decode("utf-8")


def _reviewer(request: Request) -> str:
    if request.reviewer is not None:
        if not request.reviewer.strip():
            raise UserError("--reviewer is empty; give a name")
        return request.reviewer.strip()
    if request.judge is not None:
        return f"rules:{request.judge.name}"
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "reviewer"


def _by_rules(
    session: Session,
    rules: Rules,
    records: Sequence[PromptRecord],
    console: Console,
    silent: bool,
) -> None:
    """Let the rules judge every pair."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from bptool.feedback.prompts import said_last

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=silent or not console.is_terminal,
    )
    with bar:
        done = session.total - len(session.left_over)
        task = bar.add_task("judging by rules", total=session.total, completed=done)
        while pair := session.next():
            columns = records[pair.number].columns
            side = rules.judge(said_last(pair.prompt), pair.left, pair.right, columns)
            session.judge(pair, side)
            bar.update(task, completed=session.total - len(session.left_over))


def _summary(session: Session) -> dict[str, object]:
    from collections import Counter

    own = [j for j in session.store.judgements if j.reviewer == session.reviewer]
    counts = Counter(j.choice for j in own)
    return {
        "file": str(session.store.path),
        "reviewer": session.reviewer,
        "judgements": len(own),
        "left_over": len(session.left_over),
        "identical": sum(j.left == j.right for j in own),
        **{choice: counts[choice] for choice in ("left", "right", "tie", "skip", "edit")},
    }


def _say(session: Session, console: Console) -> None:
    """How much was judged, how, and how far several reviewers agree."""
    from bptool.feedback.agreement import agreement

    found = _summary(session)
    pairs = sum(j.chosen is not None for j in session.store.judgements)
    console.print(
        f"{found['judgements']} judgements by {session.reviewer}: {found['left']} left, "
        f"{found['right']} right, {found['tie']} ties ({found['identical']} of identical answers), "
        f"{found['skip']} skipped, {found['edit']} edited",
        highlight=False,
    )
    shared = agreement(session.store.judgements)
    if len(shared.reviewers) > 1 and shared.n_pairs:
        console.print(
            f"{len(shared.reviewers)} reviewers agree in {100 * shared.share:.0f} % of "
            f"{shared.n_pairs:,} pairs that several judged (Fleiss' kappa "
            f"{wording.decimal(shared.kappa, 2)})",
            highlight=False,
        )
    path = wording.argument(wording.near_path(str(session.store.path)))
    console.print(f"{pairs:,} preferences in {path}", highlight=False)
    if found["left_over"]:
        console.print(f"{found['left_over']} prompts are left; the same command goes on")
    sys.stdout.flush()
