"""What ``bptool train`` is asked to do: the configuration, the folder, and whether to go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.errors import ConfigError, UserError

if TYPE_CHECKING:
    from bptool.config.load import Resolved
    from bptool.config.schema import RunConfig
    from bptool.training.run_folder import RunFolder

MAY_CHANGE = {
    "training.steps",
    "training.eval_interval",
    "training.log_interval",
    "training.checkpoint_interval",
    "training.eval_tokens",
    "training.workers",
    "training.split",
    "training.early_stopping",
    "training.early_stopping.patience",
    "training.early_stopping.standard_errors",
    "training.early_stopping.min_improvement",
}
"""Settings that a resumed run may change; all others would make it another run."""
RUNS = Path("runs")


@dataclass(frozen=True)
class Request:
    """A run to start, or to go on with."""

    config: RunConfig
    folder: RunFolder
    resume: bool


def settle(
    source: list[str],
    texts: list[str],
    sets: list[str],
    out: Path | None,
    resume: bool,
    start: Path | None = None,
) -> Request:
    """Settle what is to be trained, and where.

    Args:
        source: a configuration file, text files, or (to resume) the folder of a run.
        texts: texts to train on in place of the configuration's.
        sets: ``key.path=value`` arguments.
        out: folder of the run; by default one named after the source in ``runs/``.
        resume: go on with the run that the folder holds.
        start: the run whose weights and tokenizer a new run starts from.

    Raises:
        UserError: the request contradicts itself, the configuration or the run.
    """
    from bptool.training.run_folder import RunFolder, free_name

    if start is not None and resume:
        raise UserError("a resumed run knows what it started from; leave --from away")
    run = Path(source[0]) if len(source) == 1 and Path(source[0]).is_dir() else None
    if run is not None and not resume:
        raise UserError(f"{run} is a folder; name a CONFIG.yaml or a text, or add --resume")
    if run is not None and (texts or out not in (None, run)):
        raise UserError(f"to resume {run}, leave --text and --out away: the run knows its own")
    if run is not None:
        folder = RunFolder(run)
        return Request(_resumed(folder, None, sets), folder, True)
    place = RUNS / name_of(source)
    if not resume:
        config = _started(source, texts, sets, start)
        return Request(config, RunFolder(out or free_name(place)), False)
    folder = RunFolder(out or place)
    folder.require_run()
    return Request(_resumed(folder, resolve_source(source, texts, []), sets), folder, True)


def _started(source: list[str], texts: list[str], sets: list[str], start: Path | None) -> RunConfig:
    """The configuration of a new run. A file's own settings stay, whatever it starts from."""
    from bptool.cli.training_from import continued

    if start is not None and not any(map(_is_config, source)):
        return continued(start, [_entry(text) for text in source + texts], sets)
    return resolve_source(source, texts, sets, start).config


def name_of(source: list[str]) -> str:
    """What a folder for the results of ``source`` is called."""
    return Path(source[0].removeprefix("dataset:")).stem or "run"


def _is_config(path: str) -> bool:
    return Path(path).suffix.lower() in (".yaml", ".yml")


def resolve_source(
    source: list[str], texts: list[str], sets: list[str], start: Path | None = None
) -> Resolved:
    """The configuration of the arguments, without regard to any run."""
    from bptool.config.load import resolve

    if len(source) == 1 and _is_config(source[0]):
        overrides: dict[str, Any] = {}
        if texts:
            overrides["data"] = {"text": [_entry(text) for text in texts]}
        if start is not None:
            overrides["start"] = {"run": str(start.absolute())}
        return resolve(source[0], sets, overrides)
    if any(map(_is_config, source)):
        raise UserError("give one CONFIG.yaml, or text files, not both; --text adds texts to it")
    return _fitted(source + texts, sets)


def _fitted(texts: list[str], sets: list[str]) -> Resolved:
    """Settings that suit the size of ``texts``."""
    from bptool.config.defaults import for_text
    from bptool.config.load import resolve
    from bptool.data.text import read_texts

    entries = [_entry(text) for text in texts]
    contents = read_texts(entries)
    size = sum(map(len, contents)), len(set("".join(contents)))
    named = {"data": {"text": entries}}
    fitted = for_text(*size)
    fitted["schedule"]["warmup_steps"] = 0  # until the run's length is known
    n_steps = resolve(None, sets, named, defaults=fitted).config.training.steps
    return resolve(None, sets, named, defaults=for_text(*size, n_steps))


def _entry(text: str) -> str:
    return text if text.startswith("dataset:") else str(Path(text).absolute())


def _resumed(folder: RunFolder, asked_for: Resolved | None, sets: list[str]) -> RunConfig:
    """The run's own configuration, with the changes that a resume allows.

    A configuration named beside --resume must not contradict the run's: what it sets itself and
    may not change must be as it was.
    """
    from bptool.config.load import flatten, resolve

    folder.require_run()
    own = resolve(folder.config).config
    changed = resolve(folder.config, sets).config
    refused = list(_contradictions(flatten(own), flatten(changed), None))
    if asked_for is not None:
        wanted = flatten(asked_for.config)
        refused += _contradictions(flatten(own), wanted, asked_for.provenance)
    if refused:
        raise ConfigError(
            f"{folder.path} was trained with {refused[0]}; a resumed run keeps its settings "
            f"(only {', '.join(sorted(_shown(MAY_CHANGE)))} may change, by --set), "
            "so leave it as it was or train a new run"
        )
    return changed


def _shown(keys: set[str]) -> set[str]:
    """Keys without those of a section that may change as a whole."""
    return {key for key in keys if key.rpartition(".")[0] not in keys}


def _contradictions(
    own: dict[str, str], wanted: dict[str, str], provenance: dict[str, str] | None
) -> Iterator[str]:
    """``key value, not value (where)`` for each setting that a resume may not change."""
    for key in sorted(own.keys() | wanted.keys()):
        if key in MAY_CHANGE or own.get(key) == wanted.get(key):
            continue
        where = "--set" if provenance is None else provenance.get(key, "")
        if where not in ("default", "derived"):
            found, asked = own.get(key, "unset"), wanted.get(key, "unset")
            yield f"{key} {found}, not {asked}" + (f" ({where})" if where else "")
