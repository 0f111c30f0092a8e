"""What ``bptool train`` is asked to do: the configuration, the folder, and whether to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.errors import ConfigError, UserError
from bptool.recipes.request import RUNS, Request, name_of

if TYPE_CHECKING:
    from bptool.config.load import Resolved
    from bptool.config.schema import RunConfig
    from bptool.data.survey import Progress
    from bptool.training.run_folder import RunFolder


def settle(
    source: list[str],
    texts: list[str],
    sets: list[str],
    out: Path | None,
    resume: bool,
    checkpoint: str | None = None,
    start: Path | None = None,
) -> Request:
    """Settle what is to be trained, and where.

    Args:
        source: a configuration file, text files, or (to resume) the folder of a run.
        texts: texts to train on in place of the configuration's.
        sets: ``key.path=value`` arguments.
        out: folder of the run; by default one named after the source in ``runs/``.
        resume: go on with the run that the folder holds.
        checkpoint: the one to go on from, in place of the last.
        start: the run whose weights and tokenizer a new run starts from.

    Raises:
        UserError: the request contradicts itself, the configuration or the run.
    """
    from bptool.data.standard_input import without_stdin
    from bptool.training.run_folder import RunFolder, free_name

    if checkpoint is not None and not resume:
        raise UserError("--checkpoint names where to go on from; add --resume")
    which = checkpoint or "last"
    if start is not None and resume:
        raise UserError("a resumed run knows what it started from; leave --from away")
    run = Path(source[0]) if len(source) == 1 and Path(source[0]).is_dir() else None
    if run is not None and not resume:
        if RunFolder(run).holds_run():
            raise UserError(f"{run} holds a run; to go on with it, add --resume")
        run = None  # a folder of texts
    if run is not None and out not in (None, run):
        raise UserError(f"to resume {run}, leave --out away: the run stays where it is")
    if run is not None:
        folder = RunFolder(run)
        config = _resumed(folder, None, [_entry(text) for text in texts], sets)
        return Request(config, folder, True, which)
    place = RUNS / name_of(source)
    source, texts = without_stdin(source, texts)
    if not resume:
        config = started(source, texts, sets, start)
        return Request(config, RunFolder(out or free_name(place)), False)
    folder = RunFolder(out or place)
    folder.require_run()
    asked_for = resolve_source(source, texts, [])
    config = _resumed(folder, asked_for, asked_for.config.data.text, sets)
    return Request(config, folder, True, which)


def run_resumed(source: list[str], out: Path | None) -> Path:
    """The folder of the run that ``--resume`` goes on with."""
    if len(source) == 1 and Path(source[0]).is_dir():
        return Path(source[0])
    return out or RUNS / name_of(source)


def started(
    source: list[str],
    texts: list[str],
    sets: list[str],
    start: Path | None,
    progress: Progress | None = None,
) -> RunConfig:
    """The configuration of a new run. A file's own settings stay, whatever it starts from.

    ``progress`` is told how far it is where texts have to be looked through for it.
    """
    from bptool.recipes.continuing import continued

    if start is not None and not any(map(_is_config, source)):
        return continued(start, [_entry(text) for text in source + texts], sets, progress)
    return resolve_source(source, texts, sets, start, progress).config


def _is_config(path: str) -> bool:
    return Path(path).suffix.lower() in (".yaml", ".yml")


def resolve_source(
    source: list[str],
    texts: list[str],
    sets: list[str],
    start: Path | None = None,
    progress: Progress | None = None,
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
    return _fitted(source + texts, sets, progress)


def _fitted(texts: list[str], sets: list[str], progress: Progress | None) -> Resolved:
    """Settings that suit the size of ``texts``."""
    from bptool.config.defaults import for_text
    from bptool.config.load import resolve
    from bptool.data.cache import cache_folder
    from bptool.data.corpus import texts_of_config
    from bptool.data.survey import survey

    named = {"data": {"text": [_entry(text) for text in texts]}}
    of_data = [setting for setting in sets if setting.startswith(("data.", "data="))]
    any_size = for_text(10**6, 100)  # how texts are read does not depend on it
    data = resolve(None, of_data, named, defaults=any_size).config.data
    found = survey(texts_of_config(data), data.split, cache_folder("tokens"), progress)
    size = found.n_characters, len(found.characters)
    fitted = for_text(*size)
    fitted["schedule"]["warmup_steps"] = 0  # until the run's length is known
    n_steps = resolve(None, sets, named, defaults=fitted).config.training.steps
    return resolve(None, sets, named, defaults=for_text(*size, n_steps))


def _entry(text: str) -> str:
    return text if text.startswith("dataset:") else str(Path(text).absolute())


def _resumed(
    folder: RunFolder, asked_for: Resolved | None, texts: list[str], sets: list[str]
) -> RunConfig:
    """The run's own configuration, with the changes that a resume allows.

    A configuration named beside --resume must not contradict the run's: what it sets itself and
    may not change must be as it was.
    """
    from bptool.config.load import resolve
    from bptool.config.resume import changes
    from bptool.training.run_seal import read_manifest

    folder.require_run()
    read_manifest(folder)
    moved = {"data": {"text": texts}} if texts else {}
    own = resolve(folder.config).config
    changed = resolve(folder.config, sets, moved).config
    refused = [(each, "--set") for each in changes(own, changed) if each.mark is None]
    if asked_for is not None:
        for each in changes(own, asked_for.config):
            place = _place(each.key, asked_for.provenance)
            if each.mark is None and place is not None:
                refused.append((each, place))
    if refused:
        first, place = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise ConfigError(
            f"{folder.path} was trained with {first.key} {first.was}, not {first.now} ({place})"
            f"{more}; that would make it another run, so leave it as it was, or start a new run "
            f"from its weights with `bptool train TEXT --from RUN`; docs/config.md says which "
            "settings may change at a resume"
        )
    return changed


def _place(key: str, provenance: dict[str, str]) -> str | None:
    """Where the file or the command line sets a key or one below it; None where neither does."""
    from bptool.config.load import CHOSEN

    for name, place in provenance.items():
        is_below = name == key or name.startswith(f"{key}.")
        if is_below and place not in ("default", "derived", CHOSEN):
            return place
    return None
