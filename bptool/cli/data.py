"""``bptool data``: fetch public texts, and look at what a text becomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bptool.config.data_section import DataConfig

app = typer.Typer(no_args_is_help=True, help="Fetch and prepare texts.")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A data set from `bptool data list`.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Take this copy instead of downloading.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Download from another place.")] = None,
) -> None:
    """Fetch a public text once, check its SHA-256, and keep it in the cache folder."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from bptool.data import download

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(name, total=download.find(name).n_bytes)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        path = download.get(name, from_file=from_file, url=url, progress=advance)
    typer.echo(path)
    typer.echo(f"train on it with: bptool train dataset:{name}", err=True)


@app.command("list")
def list_datasets() -> None:
    """List the public texts that `get` knows, and which of them are here."""
    from rich.console import Console
    from rich.table import Table

    from bptool.data import download

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "bytes", "here", "what"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left")
    for dataset in download.DATASETS.values():
        here = "yes" if download.is_here(dataset.name) else "no"
        table.add_row(dataset.name, f"{dataset.n_bytes:,}", here, dataset.description)
    Console().print(table)


@app.command("inspect")
def inspect(
    source: Annotated[
        str, typer.Argument(help="A text file, dataset:NAME, or a configuration (.yaml).")
    ],
    tokenizer: Annotated[
        str | None, typer.Option(help="Look at it through this tokenizer: char, byte or bpe.")
    ] = None,
) -> None:
    """Show characters, tokens and split of a text, as training would see it."""
    from rich.console import Console
    from rich.table import Table

    from bptool.data.corpus import describe

    table = Table(box=None, show_header=False, pad_edge=False)
    for what, value in describe(_data_section(source, tokenizer)).items():
        shown = f"{value:,}" if isinstance(value, int) else value
        table.add_row(what, f"{shown:.3f}" if isinstance(shown, float) else str(shown))
    Console().print(table)


def _data_section(source: str, tokenizer: str | None) -> DataConfig:
    chosen: dict[str, Any] = {} if tokenizer is None else {"tokenizer": tokenizer}
    if Path(source).suffix.lower() in (".yaml", ".yml"):
        from bptool.config.load import resolve

        return resolve(source, overrides={"data": chosen}).config.data
    from bptool.config.data_section import DataConfig

    return DataConfig(text=[source], **chosen)
