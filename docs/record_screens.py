"""Records the screens of the documentation: ``python docs/record_screens.py [NAME ...]``.

Runs the real commands in a temporary folder, each on a pseudo-terminal of its own, follows what
they draw, and writes what stands on the screen as ``docs/screens/NAME.svg`` with rich's export. The
plots of the runs are copied beside them. With names, only those screens are written; what they
need is run all the same.

Takes about five minutes on two quiet cores, most of it in training ``configs/quickstart.yaml``.
Needs a system with pseudo-terminals (Linux, macOS).
"""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from bptool.files import write_text

ROOT = Path(__file__).resolve().parent.parent
SCREENS = ROOT / "docs" / "screens"
MAX_BYTES = 150_000
LINES_OF_TERMINAL = 48
MID_RUN = 60
"""The live screen is the last one drawn before this share of the steps, in percent."""

TRAIN = "bptool train configs/quickstart.yaml --out runs/quickstart"
SMALLER = "--set model.n_layer=2 --set model.context=64"
COMPARED = "runs/compare-quickstart"

MISTAKES = """model:
  name: gpt2
  n_layers: 4
  n_head: 3
  n_embd: 128
data:
  text: data/story.txt
  tokenizer: bpe
training:
  steps: 1000
  batch_size: twelve
optimizer:
  name: adamv
"""

ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[^\[]")
REDRAW = "\r\x1b[2K"
PERCENT = re.compile(r"(\d+) %")
FONT_FACES = re.compile(r"\s*@font-face \{\{.*?\}\}", re.DOTALL)
SVG_FORMAT = FONT_FACES.sub("", CONSOLE_SVG_FORMAT).replace(
    "font-family: Fira Code, monospace",
    "font-family: Fira Code, Menlo, Consolas, DejaVu Sans Mono, monospace",
)
"""Rich's own, without fonts that a reader's browser would fetch from a third party."""


@dataclass(frozen=True)
class Screen:
    """A command and how its screen is kept."""

    name: str
    command: str
    columns: int = 100
    exit_code: int = 0
    mid_run: bool = False
    with_errors: bool = False
    """Keep the standard error too. A command's progress bar is drawn there, and goes."""
    plots: dict[str, str] = field(default_factory=dict)
    """Files that the command leaves, and the names of their copies."""


TRAINING = Screen("training", TRAIN, mid_run=True, plots={"runs/quickstart/loss.png": "loss.png"})
SCREENS_IN_ORDER = (
    Screen("plan", "bptool train configs/quickstart.yaml --plan", columns=84),
    Screen(
        "lr-find",
        "bptool lr-find configs/quickstart.yaml",
        plots={"runs/lr-find-quickstart/lr-find.png": "lr-find.png"},
    ),
    TRAINING,
    Screen("generate", 'bptool generate runs/quickstart --prompt "One spring" --max-tokens 160'),
    Screen("eval", "bptool eval runs/quickstart --nanogpt-estimator", columns=72),
    Screen(
        "gradcheck",
        "bptool gradcheck configs/quickstart.yaml --set model.n_layer=2",
        columns=130,
    ),
    Screen(
        "compare-optimizers",
        f"bptool compare-optimizers configs/quickstart.yaml {SMALLER} --steps 200 --seeds 3 "
        f"--out {COMPARED}",
        plots={f"{COMPARED}/curves-quickstart.png": "compare-optimizers.png"},
    ),
    Screen("error", "bptool train mistakes.yaml", exit_code=2, with_errors=True),
)


class Terminal:
    """Follows what a program draws: lines, colours, and rich's way of drawing over itself."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = 0

    def feed(self, data: str) -> None:
        """Take in output: text, line ends, and the control codes that rich's live display uses."""
        position = 0
        for match in ESCAPE.finditer(data):
            self._write(data[position : match.start()])
            self._obey(match)
            position = match.end()
        self._write(data[position:])

    def _obey(self, match: re.Match[str]) -> None:
        code = match.group(2)
        if code == "m":
            self.lines[self.row] += match.group()
        elif code == "A":
            self.row = max(0, self.row - int(match.group(1) or 1))
        elif code == "K":
            self.lines[self.row] = ""

    def _write(self, text: str) -> None:
        # Lines are always drawn whole, so a return to the first column needs no account.
        for number, part in enumerate(text.replace("\r", "").split("\n")):
            if number:
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            self.lines[self.row] += part

    def text(self) -> Text:
        """What stands there now, colours and all, without empty lines at the end."""
        return Text.from_ansi("\n".join(self.lines).rstrip())


def frames(data: str) -> Iterator[Text]:
    """The screen before each redraw, when it is complete, and the screen at the end."""
    terminal = Terminal()
    first, *redraws = data.split(REDRAW)
    terminal.feed(first)
    for part in redraws:
        yield terminal.text()
        terminal.feed(REDRAW + part)
    yield terminal.text()


def kept_frame(screen: Screen, data: str) -> Text:
    """The frame that the documentation shows: the last, or the last one before MID_RUN."""
    chosen: Text | None = None
    for frame in frames(data):
        shares = PERCENT.findall(frame.plain.rpartition("━")[2] or frame.plain)
        if chosen is None or not screen.mid_run or (shares and int(shares[0]) <= MID_RUN):
            chosen = frame
    assert chosen is not None
    return chosen


def run(screen: Screen, folder: Path) -> str:
    """Run a command on a pseudo-terminal; returns all that it wrote there."""
    arguments = [sys.executable, "-m", "bptool", *shlex.split(screen.command)[1:]]
    inherited = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR")}
    environment = inherited | {
        "COLUMNS": str(screen.columns),
        "LINES": str(LINES_OF_TERMINAL),
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "PYTHONPATH": str(ROOT),
    }
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs if screen.with_errors else subprocess.PIPE,
    )
    os.close(theirs)
    data = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        data += part
    os.close(ours)
    _, errors = process.communicate()
    if process.returncode != screen.exit_code:
        said = (errors or data).decode("utf-8", "replace")
        sys.exit(f"{screen.command}: exit code {process.returncode}\n{said}")
    return data.decode("utf-8").replace("\r\n", "\n")


def svg(screen: Screen, frame: Text) -> str:
    """The prompt, the command and the frame as SVG."""
    console = Console(
        record=True,
        width=screen.columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text.assemble(("$ ", "bold green"), (screen.command, "bold")))
    console.print(frame)
    console.print()  # or the frame's last line touches the edge
    return console.export_svg(title="", code_format=SVG_FORMAT, unique_id=f"bptool-{screen.name}")


def save(screen: Screen, picture: str, folder: Path) -> None:
    """Write the picture, unless it is too large or names a place of this machine."""
    places = {str(folder), tempfile.gettempdir(), str(Path.home()), str(ROOT), str(ROOT.parent)}
    for place in places - {"/"}:
        if place in picture:
            sys.exit(f"{screen.name}: {place} would stand in the picture")
    if len(picture.encode()) > MAX_BYTES:
        sys.exit(f"{screen.name}: {len(picture.encode()):,} bytes, more than {MAX_BYTES:,}")
    write_text(SCREENS / f"{screen.name}.svg", picture)
    print(f"wrote docs/screens/{screen.name}.svg")
    for source, copy in screen.plots.items():
        shutil.copyfile(folder / source, SCREENS / copy)
        print(f"wrote docs/screens/{copy}")


def main(names: list[str]) -> None:
    """Record the named screens, or all."""
    known = [screen.name for screen in SCREENS_IN_ORDER]
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"no such screen: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [screen for screen in SCREENS_IN_ORDER if not names or screen.name in names]
    if any("runs/quickstart" in screen.command for screen in wanted) and TRAINING not in wanted:
        wanted.insert(0, TRAINING)
    SCREENS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        shutil.copytree(ROOT / "configs", folder / "configs")
        (folder / "data").mkdir()
        shutil.copyfile(ROOT / "data" / "stories.txt", folder / "data" / "stories.txt")
        write_text(folder / "mistakes.yaml", MISTAKES)
        for screen in wanted:
            frame = kept_frame(screen, run(screen, folder))
            if not names or screen.name in names:
                save(screen, svg(screen, frame), folder)


if __name__ == "__main__":
    main(sys.argv[1:])
