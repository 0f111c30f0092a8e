"""``bptool generate``: write text with a trained model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bptool.cli import terminal
from bptool.cli.programs import Plugins
from bptool.cli.stop import STOP_HELP, stop_strings
from bptool.recipes.programs import load_programs


def generate(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Text to go on from; - reads standard input.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Length in tokens.", min=0)] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens up to this probability.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    num_samples: Annotated[int, typer.Option(help="How many texts.", min=1, max=4096)] = 1,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help=STOP_HELP),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="The last checkpoint in place of the best.")
    ] = False,
    weights: Annotated[
        Literal["raw", "average"] | None,
        typer.Option(help="As trained, or averaged; by default the average where there is one."),
    ] = None,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write text with a trained model."""
    from bptool.errors import DataError, UserError
    from bptool.inference.sampling import Sampling
    from bptool.inference.writer import Writer
    from bptool.ops.cores import usable_cores
    from bptool.training.machine import total_memory_bytes
    from bptool.training.setup import format_bytes
    from bptool.training.trained import open_run
    from bptool.training.workers import WorkerTeam

    load_programs(plugin, run)
    sampling = Sampling(temperature, top_k, top_p, seed)
    trained = open_run(run, last, weights)
    given = _read_stdin() if prompt == "-" else prompt
    if given == "":
        raise DataError("--prompt is empty; give at least one character, or leave it out")
    shown = trained.config.sample.prompt if given is None else given
    needed, memory = trained.model.decoder_bytes(num_samples), total_memory_bytes()
    if memory is not None and needed > memory:
        raise UserError(
            f"--num-samples {num_samples} needs {format_bytes(needed)} of memory and the machine "
            f"has {format_bytes(memory)}; draw fewer at a time"
        )
    workers = WorkerTeam(usable_cores())
    writer = Writer(trained.model, trained.params, workers, trained.tokenizer)
    try:
        prompt_ids = writer.encode_prompt(shown)
    except DataError as error:
        raise DataError(f"--prompt: {error}") from None
    stops = stop_strings(stop)
    texts = [""] * num_samples
    streams = num_samples == 1 and not json
    if streams:
        terminal.exact(shown)
    for pieces in writer.write(prompt_ids, max_tokens, sampling, num_samples, stops):
        for i, piece in enumerate(pieces):
            texts[i] += piece
        if streams:
            terminal.exact(pieces[0])
    workers.close()
    if json:
        samples = [{"text": sample} for sample in texts]
        result = {"prompt": shown, "seed": seed, "step": trained.step, "weights": trained.kind}
        result["samples"] = samples
        terminal.json(result)
    elif streams:
        terminal.line()
    else:
        for number, sample in enumerate(texts, 1):
            title = f"--- sample {number} of {num_samples} ---"
            terminal.exact(f"{title}\n{shown + sample}\n\n")


def _read_stdin() -> str:
    """The standard input as UTF-8, line ends as in a training text, without the last one: it is
    whoever sends a line that adds it."""
    from bptool.errors import DataError

    try:
        text = sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n")
        return text.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input: byte 0x{error.object[error.start]:02X} at offset {error.start} is "
            "not UTF-8; save the prompt as UTF-8"
        ) from None
