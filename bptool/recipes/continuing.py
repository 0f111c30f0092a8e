"""What ``bptool train --from RUN`` is asked to do: go on with a run's weights on another text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bptool.config.schema import RunConfig
    from bptool.data.survey import Progress

PASSES = 3
"""Over the text, unless the run's own training was shorter."""


def continued(
    run: Path, entries: list[str], sets: list[str], progress: Progress | None = None
) -> RunConfig:
    """Settings of a run that starts from ``run`` and trains on the texts ``entries``.

    Model and tokenizer are the run's; so is its optimizer, at half the learning rate.

    Raises:
        UserError: the run, a text or a setting is unfit.
    """
    from bptool.data.corpus import prepare
    from bptool.recipes.fine_tuning import resolved
    from bptool.recipes.inherited import started_from
    from bptool.training.start import with_chat_tokens
    from bptool.training.trained import open_run

    parent = open_run(run)
    was = parent.config
    values = started_from(parent, run, "best")
    values["data"] |= {"text": entries}
    if was.data.records is None:  # the parent too was trained on a text
        values["data"] |= was.data.model_dump(mode="json", include={"sampling", "split"})
        values["sample"] = was.sample.model_dump(mode="json")
        values["training"]["eval_tokens"] = was.training.eval_tokens
    config = resolved(values, sets, steps=1)
    tokenizer = with_chat_tokens(parent.tokenizer, config)
    n_train = prepare(config.data, parent.model.context, progress, tokenizer=tokenizer).n_train
    batch = config.training.batch_size
    tokens = n_train if batch == "full" else batch * parent.model.context
    steps = min(was.training.steps, math.ceil(PASSES * n_train / tokens))
    return resolved(values, sets, steps)
