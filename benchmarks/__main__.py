"""The commands of ``python -m benchmarks``; without one, ``train``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from benchmarks.results import Result

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Measure bptool beside its peers and the machine's limits. Without a command: train.",
)
WIDTH_OF_PIPES = 110
ALL_PEERS = "pytorch,pytorch-compile,jax"

Workloads = Annotated[str, typer.Option(help=f"Of {', '.join(WORKLOADS)}.")]
Peers = Annotated[str, typer.Option(help=f"Of {ALL_PEERS}; or none.")]
Turns = Annotated[int, typer.Option("--pairs", help="Turns of each.", min=1)]
Threads = Annotated[int, typer.Option(help="0: every core.", min=0)]
Out = Annotated[Path | None, typer.Option(help="A JSON file for every sample.")]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name and name != "none"]


def _cores(threads: int) -> int:
    from bptool.ops.cores import usable_cores

    return threads or usable_cores()


def _finish(threads: int, results: Iterable[list[Result]], out: Path | None) -> None:
    """Show results as they come, and keep all so far, so that a run that is stopped leaves some."""
    from benchmarks import tables
    from benchmarks.results import report, write

    console, found = Console(), list["Result"]()
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    start, last_line = time.monotonic(), ""
    for together in results:
        found += together
        tables.show(console, together)
        so_far = report(threads, found, time.monotonic() - start)
        if out is not None:
            write(out, so_far)
        last_line = tables.conditions(so_far)
    console.print(last_line)


@app.command()
def train(
    workloads: Workloads = "A,A64,B,C,L",
    peers: Peers = ALL_PEERS,
    pairs: Turns = 10,
    threads: Threads = 0,
    limits: Annotated[bool, typer.Option(help="The step's products and multiply-adds.")] = True,
    out: Out = None,
) -> None:
    """Training steps of bptool, PyTorch and JAX, and the limits of the machine."""
    from benchmarks.train import measure

    n = _cores(threads)
    each = ([measure(name, _names(peers), pairs, n, limits)] for name in _names(workloads))
    _finish(n, each, out)


@app.command()
def limits(
    workloads: Workloads = "A,A64,B,C,L", pairs: Turns = 10, threads: Threads = 0, out: Out = None
) -> None:
    """bptool's steps beside their matrix products alone and multiply-adds alone."""
    train(workloads, "none", pairs, threads, True, out)


@app.command()
def scaling(
    workloads: Workloads = "B",
    peers: Peers = "pytorch",
    pairs: Turns = 10,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """One thread against all of them."""
    from benchmarks.scaling import measure

    n = _cores(threads)
    _finish(n, (measure(name, _names(peers), pairs, n) for name in _names(workloads)), out)


@app.command()
def memory(
    workloads: Workloads = "C,L", peers: Peers = ALL_PEERS, threads: Threads = 0, out: Out = None
) -> None:
    """The most memory that training takes."""
    from benchmarks.memory import measure

    n = _cores(threads)
    _finish(n, ([measure(name, _names(peers), n)] for name in _names(workloads)), out)


@app.command()
def startup(
    cold: Annotated[int, typer.Option(help="Starts without caches.", min=1)] = 2,
    warm: Annotated[int, typer.Option(help="Starts with them.", min=1)] = 5,
    out: Out = None,
) -> None:
    """From the command `bptool train` to the end of its first step."""
    from benchmarks.startup import measure

    _finish(_cores(0), [measure(cold, warm)], out)


@app.command()
def generate(
    workload: Annotated[str, typer.Option(help=f"Of {', '.join(WORKLOADS)}.")] = "C",
    samples: Annotated[str, typer.Option(help="Numbers of sequences side by side.")] = "1,4",
    tokens: Annotated[int, typer.Option(help="Tokens a turn.", min=1)] = 16,
    context: Annotated[int, typer.Option(help="Of the model.", min=64)] = 256,
    pairs: Turns = 10,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Token after token with a cache, against PyTorch and the speed of memory."""
    from benchmarks.generate import measure

    n, counts = _cores(threads), [int(count) for count in _names(samples)]
    _finish(n, (measure(workload, count, tokens, context, pairs, n) for count in counts), out)


@app.command()
def finetuning(
    workloads: Workloads = "A,B", pairs: Turns = 10, threads: Threads = 0, out: Out = None
) -> None:
    """Steps on records, with low-rank adapters, and of DPO, beside steps of pretraining."""
    from benchmarks.finetuning import measure

    n = _cores(threads)
    _finish(n, ([measure(name, pairs, n)] for name in _names(workloads)), out)


@app.command()
def rollouts(
    workload: Annotated[str, typer.Option(help=f"Of {', '.join(WORKLOADS)}.")] = "B",
    prompts: Annotated[int, typer.Option(help="Prompts that are answered at once.", min=1)] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.", min=1)] = 32,
    pairs: Turns = 10,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Answers sampled side by side or one by one."""
    from benchmarks.rollouts import measure

    n = _cores(threads)
    _finish(n, [[measure(workload, prompts, tokens, pairs, n)]], out)


@app.command()
def data(
    workloads: Workloads = "A,B",
    text: Annotated[Path | None, typer.Option(help="To tokenize; by default the stories.")] = None,
    pairs: Turns = 10,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Tokenizing and drawing batches, against the libraries by hand."""
    from benchmarks.data import TEXT, measure

    n = _cores(threads)
    _finish(n, measure(_names(workloads), pairs, n, text or TEXT), out)


@app.command()
def matmul(
    workloads: Workloads = "A,B,C",
    only: Annotated[str, typer.Option(help="Products with one of these in their name.")] = "",
    workers: Annotated[int, typer.Option(help="A product has this share of the rows.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    pairs: Turns = 15,
    threads: Annotated[int, typer.Option(help="Threads that multiply at once.", min=1)] = 1,
    out: Out = None,
) -> None:
    """Each matrix product of the workloads, on every engine."""
    from benchmarks.matmul import measure

    names = _names(workloads)
    each = (measure(name, threads, workers, dtype, _names(only), pairs) for name in names)
    _finish(threads, each, out)


@app.command()
def optimizers(
    only: Annotated[str, typer.Option(help="Names, separated by commas; all by default.")] = "",
    millions: Annotated[float, typer.Option(help="Parameters in millions.")] = 30.0,
    pairs: Turns = 5,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Each optimizer's update, against the speed of memory."""
    from benchmarks.optimizers import measure

    n = _cores(threads)
    _finish(n, [measure(_names(only), millions, pairs, n)], out)


@app.command("lr-find")
def lr_find(
    texts: Annotated[str, typer.Option(help="Separated by commas; by default three.")] = "",
    seeds: Annotated[int, typer.Option(help="Of each model and text.", min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, one text.")] = False,
    ledger: Annotated[
        Path, typer.Option(help="JSON lines that are appended to; a run in it is not repeated.")
    ] = Path("lr-find.jsonl"),
) -> None:
    """Whether the suggestions of `bptool lr-find` are good, against grids of rates."""
    from benchmarks.lr_find import HEAD, TEXTS, line, measure, summary

    names = (_names(texts) or TEXTS)[: 1 if quick else None]
    typer.echo(HEAD)
    verdicts = []
    for verdict in measure(ledger, names, 1 if quick else seeds):
        verdicts.append(verdict)
        typer.echo(line(verdict))
    typer.echo(f"\n{summary(verdicts)}")


@app.command("all")
def everything(
    quick: Annotated[bool, typer.Option("--quick", help="Less of each, in minutes.")] = False,
    pairs: Turns = 10,
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """All of it but `optimizers`, one after the other."""
    n = _cores(threads)
    _finish(n, _everything(n, 3 if quick else pairs, quick), out)


def _everything(threads: int, pairs: int, quick: bool) -> Iterator[list[Result]]:
    from benchmarks import data, generate, matmul, memory, scaling, startup, train

    peers = _names("pytorch" if quick else ALL_PEERS)
    for name in ("A", "B") if quick else ("A", "A64", "B", "C", "L"):
        yield [train.measure(name, peers, pairs, threads)]
    yield scaling.measure("B", ["pytorch"], pairs, threads)
    for name in () if quick else ("C", "L"):
        yield [memory.measure(name, peers, threads)]
    yield startup.measure(1 if quick else 2, pairs)
    for samples in (1,) if quick else (1, 4):
        yield generate.measure("A" if quick else "C", samples, 16, 256, pairs, threads)
    yield from data.measure(["A"] if quick else ["A", "B"], pairs, threads)
    for name in ("A",) if quick else ("A", "B", "C"):
        yield matmul.measure(name, 1, 2, "float32", [], pairs)


@app.command()
def table(
    files: Annotated[list[Path], typer.Argument(help="Reports, as --out writes them.")],
    details: Annotated[bool, typer.Option("--details", help="Every table and note.")] = False,
) -> None:
    """Print reports as Markdown: the training workloads in one table, or everything."""
    from benchmarks import tables
    from benchmarks.results import read

    for file in files:
        try:
            found = read(file)
        except ValueError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        typer.echo(tables.details(found) if details else tables.markdown(tables.summary(found)))
        typer.echo(f"\n{tables.conditions(found)}")


def main(words: list[str]) -> None:
    """Run the command that ``words`` name, or ``train`` with them as its options."""
    is_train = not words or (words[0].startswith("-") and words[0] != "--help")
    app(["train", *words] if is_train else words, prog_name="python -m benchmarks")


if __name__ == "__main__":
    main(sys.argv[1:])
