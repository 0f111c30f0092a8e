"""What is said once a run has ended."""

from __future__ import annotations

from collections.abc import Iterator

from bptool.training.events import Notice
from bptool.training.lessons.base import Lesson
from bptool.training.progress import Evaluations


def closing_notices(lesson: Lesson, evaluations: Evaluations) -> Iterator[Notice]:
    """What the user should know of the whole run."""
    yield from lesson.closing()
    if lesson.judges_start and evaluations.best_step == 0 and evaluations.best_val_loss is not None:
        yield Notice(
            f"training did not help: at no evaluation was the {lesson.judged_as} better than that "
            "of the model before training, at step 0, which is kept as the best checkpoint",
            "warning",
        )
