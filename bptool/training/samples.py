"""``samples.txt``: the text that the model wrote at each evaluation, each under its step."""

from __future__ import annotations

import re
from pathlib import Path

from bptool.errors import RunError
from bptool.files import append_whole, read_replacing, write_text
from bptool.training.callback import Callback, Event, Reached, State
from bptool.training.events import Sampled
from bptool.training.run_folder import FORMAT_VERSION, writing

HEADER = f"# bptool samples, format_version {FORMAT_VERSION}\n"
_TITLE = re.compile(r"^== step (\d+) ==$", re.MULTILINE)


class SamplesFile(Callback):
    """Appends each sample to ``samples.txt``; a disk that cannot take it does not stop the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event, state: State) -> None:
        if isinstance(event, Reached) and event.after == "rollback":
            rewind(self.path, event.step)
        elif isinstance(event, Sampled):
            try:
                self._append(event)
            except RunError as error:
                self.warn(str(error))

    def _append(self, sample: Sampled) -> None:
        with writing(self.path):
            if not self.path.exists():
                write_text(self.path, HEADER)
            data = f"\n== step {sample.step} ==\n{sample.prompt}{sample.text}\n".encode()
            with self.path.open("ab", buffering=0) as file:
                append_whole(file, data, file.tell())


def rewind(path: Path, step: int) -> None:
    """Drop the samples of ``step`` and later, which a resumed run writes anew."""
    if not path.exists():
        return
    try:
        # Not through universal line ends: a sample may hold any of them.
        text = read_replacing(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; restore it from a copy") from None
    for title in _TITLE.finditer(text):
        if int(title[1]) >= step:
            with writing(path):
                write_text(path, text[: title.start()].removesuffix("\n"))
            return
