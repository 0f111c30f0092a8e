"""``bptool data``: fetch public texts, and look at what a text becomes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins
from bptool.recipes.programs import load_programs

if TYPE_CHECKING:
    from bptool.config.data_section import DataConfig, Form
    from bptool.data.tokenizers import Tokenizer

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
    from bptool.cli.console import Console
    from bptool.cli.preparing import byte_bar
    from bptool.data import download

    with byte_bar(Console(stderr=True)) as bar:
        task = bar.add_task(name, total=download.find(name).n_bytes)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        path = download.get(name, from_file=from_file, url=url, progress=advance)
    terminal.exact(f"{path}\n")
    terminal.line(f"train on it with: bptool train dataset:{name}", err=True)


@app.command("list")
def list_datasets() -> None:
    """List the public texts that `get` knows, and which of them are here."""
    from rich.table import Table

    from bptool.cli.console import Console
    from bptool.data import download

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "bytes", "here", "what"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left")
    for dataset in download.DATASETS.values():
        here = "yes" if download.is_here(dataset.name) else "no"
        table.add_row(dataset.name, f"{dataset.n_bytes:,}", here, dataset.description)
    Console().print(table)


@app.command("prepare")
def prepare(
    source: Annotated[
        list[str], typer.Argument(help="A CONFIG.yaml, or text files; - is standard input.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="This text in place of the configuration's. Repeatable."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: data.errors=replace. Repeatable."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="With the tokenizer of this run.")
    ] = None,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the file's path.")] = False,
) -> None:
    """Tokenize texts now, so that `bptool train` with the same arguments starts at once.

    Ctrl-C and SIGTERM keep what was tokenized and exit with code 130 or 143; the same command
    goes on from there. Only a whole token file is ever trained on.
    """
    from bptool.cli.preparing import Asked, prepare_texts

    load_programs(plugin, *source, start)
    prepare_texts(Asked(source, text or [], sets or [], start, plugin or []), quiet)


@app.command("inspect")
def inspect(
    source: Annotated[
        str, typer.Argument(help="A text, - for standard input, dataset:NAME, or a CONFIG.yaml.")
    ],
    tokenizer: Annotated[
        str | None, typer.Option(help="Look at it through this tokenizer: char, byte or bpe.")
    ] = None,
    kind: Annotated[
        Literal["text", "sft", "preference"],
        typer.Option(
            "--as",
            help="As a text, as records that `bptool finetune sft` learns, or as judgements that "
            "dpo and reward learn.",
        ),
    ] = "text",
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Records in the tokens of this run; else in bytes."),
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", help="Of records: roles, chatml or plain.")
    ] = None,
    form: Annotated[
        Literal["messages", "conversations", "instruction", "prompt", "text"] | None,
        typer.Option("--form", help="Of records whose keys fit two forms."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show documents, tokens, duplicates and split of a text, as training would see it.

    With `--as sft` show forms and faults of records of conversations, the text that they become,
    and what of it is trained on; with `--as preference` the same of judgements of answers.
    """
    from bptool.cli.console import Console
    from bptool.cli.preparing import Stages, byte_bar
    from bptool.data.inspection import inspect as look
    from bptool.errors import UserError

    load_programs(None, source, start)
    if kind != "text":
        if tokenizer is not None:
            raise UserError("--tokenizer is for a text; name a run whose tokens to use by --from")
        if kind == "preference" and form:
            raise UserError("--form is for --as sft; judgements are told apart by their keys")
        found = _records(source, start, template, form, kind == "preference")
    elif start or template or form:
        raise UserError(
            "--from, --template and --form are for records; add --as sft or --as preference"
        )
    else:
        data = _data_section(source, tokenizer)
        with byte_bar(Console(stderr=True)) as bar:
            found = look(data, progress=Stages(None, bar))
    if json:
        terminal.json(found)
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for what, value in found.items():
        if isinstance(value, int | float):
            table.add_row(what, f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
    Console().print(table)
    for what in ("commonest", "rarest") if kind == "text" else ():
        terminal.line(f"{what}: {', '.join(f'{token} {n:,}' for token, n in found[what])}")
    for sample in found["samples"]:
        place, text = ("", sample) if kind == "text" else (f" of {sample[0]}", sample[1])
        terminal.line(f"sample{place}: {text!r}")
    if kind != "text":
        terminal.line("trained on is what stands between [[ and ]]")
        for fault in found["faults"]:
            terminal.line(f"broken: {fault.strip()}")
    for note in found["notes"]:
        terminal.line(f"note: {note}")


def _records(
    source: str, start: Path | None, template: str | None, form: Form | None, judged: bool
) -> dict[str, Any]:
    """What records become in the tokens of a run, or in bytes."""
    from bptool.config.data_section import DataConfig
    from bptool.data.chat.inspection import inspect_preferences, inspect_records
    from bptool.data.chat.rendering import Rendering
    from bptool.data.standard_input import without_stdin
    from bptool.data.tokenizers.byte import ByteTokenizer
    from bptool.registry import templates
    from bptool.training.trained import open_run

    (source,), _ = without_stdin([source], [])
    tokenizer: Tokenizer = ByteTokenizer()
    name = "roles"
    if start is not None:
        run = open_run(start)
        tokenizer, name = run.tokenizer, run.chat_template or name
    name = template or name
    kind = templates.get(name)()
    tokenizer = tokenizer.with_special_tokens(kind.special_tokens)
    data = DataConfig(text=[source])
    if judged:
        return inspect_preferences(data, Rendering(name, tokenizer))
    return inspect_records(data, form, kind, tokenizer)


def _data_section(source: str, tokenizer: str | None) -> DataConfig:
    from bptool.data.standard_input import without_stdin

    (source,), _ = without_stdin([source], [])
    chosen: dict[str, Any] = {} if tokenizer is None else {"tokenizer": tokenizer}
    if Path(source).suffix.lower() in (".yaml", ".yml"):
        from bptool.config.load import resolve

        return resolve(source, overrides={"data": chosen}).config.data
    from bptool.config.data_section import DataConfig

    return DataConfig(text=[source], **chosen)
