"""Programs of the user's that a command or a call names: what happens before one of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bptool import consent

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig


def load_programs(
    plugins: Sequence[str] | None,
    *places: Path | str | None,
    reward: str | None = None,
    judge: Path | None = None,
    resumed: Path | None = None,
) -> None:
    """Load the plug-ins that the user named, and allow a file of rewards to run.

    Before a line of them runs, the runs among ``places`` (their folders, or their ``config.yaml``)
    are held to the hashes in their manifests, and so are the programs. ``resumed`` is a run that
    needs all its programs again.

    Raises:
        UserError: a program is missing or fails, or it or a file of a run was changed.
    """
    from bptool.plugins import load_named, name_plugin, name_rules

    named = [name_plugin(name) for name in plugins or ()]
    if reward is not None and not Path(reward).is_dir():
        name_rules("--reward", Path(reward))
    if judge is not None:
        name_rules("--judge", judge)
    folders = {Path(place): False for place in places if place is not None}
    folders |= {} if resumed is None else {resumed: True}
    for place, resumes in folders.items():
        if resumes or consent.programs() or place.name == "config.yaml":
            _check(place, resumes)
    for plugin in named:
        load_named(plugin)


def _check(place: Path, resumes: bool) -> None:
    from bptool.training.run_folder import run_of
    from bptool.training.run_seal import check_programs

    run = run_of(place)
    if run is not None:
        run.require_run()
        check_programs(run, resumes)


def with_reward(config: RunConfig, reward: str | None) -> RunConfig:
    """``config`` with what the user named as reward in the place of its own.

    Raises:
        ConfigError: it has no rewards.
    """
    if reward is None:
        return config
    if config.rollouts is None:
        from bptool.errors import ConfigError

        raise ConfigError("--reward is for runs of ppo and grpo; leave it out")
    rollouts = config.rollouts.model_copy(update={"reward": str(Path(reward).absolute())})
    return config.model_copy(update={"rollouts": rollouts})
