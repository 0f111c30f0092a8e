"""Reading configurations: layers, provenance, round trips, and every error with its exact line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from bptool import registry
from bptool.config import yaml_reader
from bptool.config.dump import dump, inline
from bptool.config.load import flatten, resolve, to_yaml
from bptool.config.schema import RunConfig
from bptool.config.section import Section, refuse
from bptool.errors import ConfigError
from bptool.optim.schedules.base import ScheduleConfig

pytestmark = pytest.mark.quick

GOOD = """\
model:
  name: net
  width: 12
data:
  text: [a.txt, sub/b.txt]
training:
  steps: 100
  batch_size: 4
"""


class Sites(Section):
    """Dropout by place."""

    inner: float = Field(default=0.0, ge=0, lt=1)
    outer: float = Field(default=0.0, ge=0, lt=1)


class NetConfig(Section):
    """A model."""

    width: int = Field(default=8, ge=1, le=4096)
    heads: int = Field(default=2, ge=1, le=64)
    kind: Literal["soft", "hard"] = "soft"
    bias: bool = True
    dropout: float | Sites = 0.0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> NetConfig:
        if self.width % self.heads:
            refuse("heads", self.heads, f"{self.heads} does not divide width {self.width}")
        return self


class FlatConfig(Section):
    """A model that has two settings which must not be equal."""

    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def _differ(self) -> FlatConfig:
        if self.low == self.high:
            raise ValueError("low and high are equal")
        return self


class RateConfig(Section):
    """An optimizer."""

    learning_rate: float = Field(default=1e-3, gt=0)
    beta: float = Field(default=0.9, ge=0, lt=1)


class PlainConfig(Section):
    """Another optimizer."""

    learning_rate: float = Field(default=0.1, gt=0)


class WarmConfig(ScheduleConfig):
    """A schedule."""


class ShrinkConfig(Section):
    """A regularizer whose strength must be given."""

    strength: float = Field(ge=0)


class EmptyConfig(Section):
    """No settings."""


FAKES: dict[str, dict[str, type[Section]]] = {
    "models": {"net": NetConfig, "flat": FlatConfig},
    "tokenizers": {"char": EmptyConfig, "pairs": WarmConfig},
    "optimizers": {"adamw": RateConfig, "plain": PlainConfig},
    "schedules": {"constant": ScheduleConfig, "ramp": WarmConfig},
    "regularizers": {"shrink": ShrinkConfig},
}


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries that hold the parts above and nothing else."""
    for name, configs in FAKES.items():
        kind = getattr(registry, name)
        monkeypatch.setattr(kind, "_classes", {})
        monkeypatch.setattr(kind, "package", "bptool.errors")
        for part, config in configs.items():
            kind.register(part)(type(part.title(), (), {"Config": config}))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a configuration into an empty working folder; returns its name there."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> str:
        Path("run.yaml").write_text(text, encoding="utf-8", newline="")
        return "run.yaml"

    return write_text


def lines_of(path: str | None, *sets: str, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(path, sets, **more)
    return str(caught.value).splitlines()


def test_reads_a_file_and_fills_in_defaults(write: Callable[[str], str], tmp_path: Path) -> None:
    config = resolve(write(GOOD)).config
    assert (config.model.name, config.model.config) == ("net", NetConfig(width=12))
    assert config.data.text == [str(tmp_path / "a.txt"), str(tmp_path / "sub" / "b.txt")]
    assert (config.data.tokenizer.name, config.optimizer.name) == ("char", "adamw")
    assert config.training.eval_interval == config.training.checkpoint_interval == 10
    assert config.training.data_seed == config.training.seed == 0


def test_texts_are_found_from_the_file_that_names_them(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    write(GOOD.replace("a.txt", "dataset:names"))
    Path("run.yaml").rename("deep/run.yaml")
    absolute = tmp_path / "far" / "c.txt"
    assert resolve("deep/run.yaml").config.data.text == [
        "dataset:names",
        str(tmp_path / "deep" / "sub" / "b.txt"),
    ]
    given_here = resolve("deep/run.yaml", [f"data.text=[x.txt, '{absolute}']"]).config
    assert given_here.data.text == [str(tmp_path / "x.txt"), str(absolute)]
    one = resolve("deep/run.yaml", ["data.text.1=y.txt"]).config
    assert one.data.text == ["dataset:names", str(tmp_path / "y.txt")]
    option = resolve("deep/run.yaml", overrides={"data": {"text": ["z.txt"]}}).config
    assert option.data.text == [str(tmp_path / "z.txt")]


KINDS_OF_ERROR: list[tuple[str, str, list[str]]] = [
    (
        "width: 12",
        "widht: 12",
        ["run.yaml:3: model.widht: unknown key; did you mean 'width'?"],
    ),
    (
        "  width: 12",
        "  beta: 0.5",
        ["run.yaml:3: model.beta: unknown key; it belongs in 'optimizer'"],
    ),
    (
        "  width: 12",
        "  zzzz: 1",
        ["run.yaml:3: model.zzzz: unknown key; known: bias, dropout, heads, kind, name, width"],
    ),
    (
        "name: net",
        "name: nett",
        ["run.yaml:2: model.name: unknown model 'nett'; did you mean 'net'?"],
    ),
    ("name: net", "name: 3", ["run.yaml:2: model.name: found 3, need the name of a model"]),
    ("  name: net\n", "", ["run.yaml:1: model.name: missing"]),
    ("width: 12", "width: 13", ["run.yaml:1: model.heads: 2 does not divide width 13"]),
    (
        "width: 12",
        "width: 12\n  heads: 5",
        ["run.yaml:4: model.heads: 5 does not divide width 12"],
    ),
    (
        "name: net\n  width: 12",
        "name: flat\n  low: 2",
        ["run.yaml:1: model: low and high are equal"],
    ),
    (
        "width: 12",
        "width: 0",
        ["run.yaml:3: model.width: found 0, need a whole number >= 1 and <= 4096"],
    ),
    (
        "width: 12",
        "width: 12\n  bias: yes",
        ["run.yaml:4: model.bias: found 'yes', need true or false"],
    ),
    (
        "width: 12",
        "width: 12\n  kind: sof",
        ["run.yaml:4: model.kind: found 'sof', need 'soft' or 'hard'"],
    ),
    (
        "width: 12",
        "width: 12\n  dropout: much",
        ["run.yaml:4: model.dropout: found 'much', need a number or a section"],
    ),
    (
        "width: 12",
        "width: 12\n  dropout:\n    inner: 1.5",
        ["run.yaml:5: model.dropout.inner: found 1.5, need a number >= 0 and < 1"],
    ),
    (
        "width: 12",
        "width: 12\n  dropout: {inn: 0.5}",
        ["run.yaml:4: model.dropout.inn: unknown key; did you mean 'inner'?"],
    ),
    (
        "steps: 100",
        "steps: ten",
        ["run.yaml:7: training.steps: found 'ten', need a whole number >= 1"],
    ),
    (
        "steps: 100",
        "steps:\n    ten",
        ["run.yaml:8: training.steps: found 'ten', need a whole number >= 1"],
    ),
    (
        "steps: 100",
        "steps: '100'",
        ["run.yaml:7: training.steps: found '100', need a whole number >= 1"],
    ),
    (
        "steps: 100",
        "steps: true",
        ["run.yaml:7: training.steps: found true, need a whole number >= 1"],
    ),
    (
        "steps: 100",
        "steps: 1.5",
        ["run.yaml:7: training.steps: found 1.5, need a whole number >= 1"],
    ),
    (
        "steps: 100",
        "steps: 1e10",
        [
            "run.yaml:7: training.steps: found 10000000000.0, "
            "need a whole number >= 1 and <= 1000000000"
        ],
    ),
    (
        "steps: 100",
        "steps:",
        ["run.yaml:7: training.steps: found nothing, need a whole number >= 1"],
    ),
    ("  steps: 100\n", "", ["run.yaml:6: training.steps: missing; need a whole number >= 1"]),
    (
        "steps: 100",
        "steps: [1]",
        ["run.yaml:7: training.steps: found a list, need a whole number >= 1"],
    ),
    (
        "batch_size: 4",
        "batch_size: Full",
        ["run.yaml:8: training.batch_size: found 'Full', need a whole number >= 1 or 'full'"],
    ),
    (
        "batch_size: 4",
        "batch_size: 4\n  micro_batch_size: 3",
        ["run.yaml:9: training.micro_batch_size: 3 does not divide batch_size 4; 2 would"],
    ),
    (
        "batch_size: 4",
        "batch_size: 4\n  clip_norm: .inf",
        [
            "run.yaml:9: training.clip_norm: found inf, "
            "need a number > 0 and <= 1000000000.0 or null"
        ],
    ),
    (
        "steps: 100",
        "steps: 100\n  steps: 200",
        ["run.yaml:8: training.steps: given twice, first on line 7; keep one"],
    ),
    (
        "model:",
        "data: {}\nmodel:",
        [
            "run.yaml:1: data.text: missing; need a list of at least 1, each text",
            "run.yaml:5: data: given twice, first on line 1; keep one",
        ],
    ),
    (
        "[a.txt, sub/b.txt]",
        "[a.txt,\n    7]",
        ["run.yaml:6: data.text.1: found 7, need text"],
    ),
    (
        "[a.txt, sub/b.txt]",
        "[]",
        ["run.yaml:5: data.text: found an empty list, need a list of at least 1, each text"],
    ),
    (
        "[a.txt, sub/b.txt]",
        "['']",
        ["run.yaml:5: data.text: found an empty name, need the path of a text file"],
    ),
    (
        "training:\n  steps: 100\n  batch_size: 4",
        "training: 7",
        ["run.yaml:6: training: found 7, need a section"],
    ),
    (
        "training:",
        "optimizer: adamv\ntraining:",
        ["run.yaml:6: optimizer.name: unknown optimizer 'adamv'; did you mean 'adamw'?"],
    ),
    (
        "training:",
        "optimizer: 3\ntraining:",
        ["run.yaml:6: optimizer: found 3, need the name of an optimizer: adamw, plain"],
    ),
    (
        "training:",
        "optimizer:\n  name: plain\n  learning_rate: -1\ntraining:",
        ["run.yaml:8: optimizer.learning_rate: found -1, need a number > 0"],
    ),
    (
        "training:",
        "regularizers:\n- name: shrink\n- shrnk\ntraining:",
        [
            "run.yaml:7: regularizers.0.strength: missing; need a number >= 0",
            "run.yaml:8: regularizers.1.name: unknown regularizer 'shrnk'; did you mean 'shrink'?",
        ],
    ),
    (
        "training:",
        "regularizers: shrink\ntraining:",
        ["run.yaml:6: regularizers: found 'shrink', need a list of sections, each with a name"],
    ),
    ("model:", "format_version: 2\nmodel:", ["run.yaml:1: format_version: found 2, need 1"]),
    (
        "model:\n  name: net\n  width: 12\n",
        "",
        ["run.yaml: model: missing; need the name of a model: flat, net"],
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), KINDS_OF_ERROR)
def test_each_error_names_its_line(
    write: Callable[[str], str], old: str, new: str, expected: list[str]
) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    assert lines_of(write(text)) == expected


def test_all_errors_come_at_once_in_the_order_of_the_file(write: Callable[[str], str]) -> None:
    text = GOOD.replace("width", "widht").replace("100", "x").replace("4\n", "4\n  seed: -1\n")
    assert lines_of(write(text), "sample.top_k=0", "optimiser=plain") == [
        "run.yaml:3: model.widht: unknown key; did you mean 'width'?",
        "run.yaml:7: training.steps: found 'x', need a whole number >= 1",
        "run.yaml:9: training.seed: found -1, need a whole number >= 0",
        "--set sample.top_k=0: found 0, need a whole number >= 1 or null",
        "--set optimiser=plain: unknown key; did you mean 'optimizer'?",
    ]


def test_without_a_file_errors_still_have_a_place() -> None:
    assert lines_of(None, "model=net", "training.steps=5", "data.text=a.txt") == [
        "--set training.steps=5: training.batch_size: missing; need a whole number >= 1 or 'full'"
    ]


SYNTAX: list[tuple[bytes, str]] = [
    (b"a: 1\n\tb: 2\n", "run.yaml:2: a tab; indent with spaces"),
    (b"a: 1\nb: 'x\nc: 2\n", "run.yaml:2: while scanning a quoted scalar, but it never ends"),
    (b"a: b: c\n", "run.yaml:1: a ':' that does not fit here"),
    (b"a: [1, 2\n", "run.yaml:2: not valid YAML"),
    (b"a: 1\n---\nb: 2\n", "run.yaml:2: a second document begins; keep one to a file"),
    (b"- 1\n- 2\n", "run.yaml:1: need 'key: value' lines; see `bptool config schema`"),
    (b"text\n", "run.yaml:1: need 'key: value' lines"),
    (b"a: 1\n? [b]\n: 2\n", "run.yaml:2: a key must be a word, not a list or a section"),
    (b"a: 1\nb: \x80\n", "run.yaml:2: byte 0x80 is not UTF-8; save as UTF-8"),
    (b"a: 1\nb: \x00\n", "run.yaml:2: the character U+0000 may not stand in YAML"),
    (b'a: 1\nb: "\\ud800"\n', "run.yaml:2: half a surrogate pair; write the character itself"),
    (b"a: 1\nb: " + b"9" * 400 + b"\n", "run.yaml:2: a number of more than 300 digits"),
    (b"a: &x 1\nb: *x\n", "run.yaml:1: anchors and aliases (& and *) are not read"),
    (b"a: !!python/object:os.system x\n", "run.yaml:1: tags such as"),
    (b"a: !!int '3'\n", "run.yaml:1: tags such as 'tag:yaml.org,2002:int' are not read"),
    (b"a: " + b"[" * 100_000, "run.yaml:1: nested deeper than 20 levels"),
    (b"a: [" + b"1," * 20_000 + b"]", "run.yaml:1: more than 10000 values"),
    (b"a: " + b"x" * 300_000, "run.yaml: larger than 256 kB; not a configuration"),
]


@pytest.mark.parametrize(("text", "expected"), SYNTAX, ids=lambda item: repr(item)[:40])
def test_a_broken_or_hostile_file_is_one_line(
    write: Callable[[str], str], text: bytes, expected: str
) -> None:
    Path(write("")).write_bytes(text)
    (line,) = lines_of("run.yaml")
    assert line.startswith(expected)


def test_an_alias_bomb_costs_nothing(write: Callable[[str], str]) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    (line,) = lines_of(write(bomb))
    assert line.startswith("run.yaml:1: anchors and aliases")


def test_a_file_that_is_not_there_or_no_file(write: Callable[[str], str]) -> None:
    write(GOOD)
    assert lines_of("rum.yaml") == ["rum.yaml: no such file; did you mean 'run.yaml'?"]
    assert lines_of("no/run.yaml") == [f"{Path('no/run.yaml')}: no such file"]
    Path("folder").mkdir()
    assert lines_of("folder") == ["folder: a folder; need a YAML file"]


def test_byte_order_mark_and_windows_line_ends(write: Callable[[str], str]) -> None:
    plain = resolve(write(GOOD)).config
    assert resolve(write("\ufeff" + GOOD.replace("\n", "\r\n"))).config == plain
    broken = "\ufeff" + GOOD.replace("100", "x").replace("\n", "\r\n")
    assert lines_of(write(broken))[0].startswith("run.yaml:7: training.steps")


SCALARS: list[tuple[str, Any]] = [
    ("3e-4", 3e-4),
    ("1e5", 1e5),
    ("1E+5", 1e5),
    (".5", 0.5),
    ("5.", 5.0),
    ("-2.5e3", -2500.0),
    ("10_000", 10_000),
    ("-7", -7),
    ("+7", 7),
    ("010", 10),
    ("0x1F", 31),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("null", None),
    ("~", None),
    ("", None),
    ("true", True),
    ("False", False),
    ("yes", "yes"),
    ("off", "off"),
    ("1:30", "1:30"),
    ("2024-01-02", "2024-01-02"),
    ("1_", "1_"),
    ("'3e-4'", "3e-4"),
    ('"true"', "true"),
    ("e5", "e5"),
    (".", "."),
    ("=", "="),
    ("<<", "<<"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = yaml_reader.parse(f"a: {text}", "x").value["a"]
    assert (found, type(found)) == (value, type(value))


def test_nan_is_read() -> None:
    assert math.isnan(yaml_reader.parse("a: .nan", "x").value["a"])


def test_lines_of_keys_and_values() -> None:
    lines = yaml_reader.parse("a:\n  b:\n    3\n  c: [4,\n   5]\n", "x").lines
    found = {path: (line.key, line.value) for path, line in lines.items()}
    assert found == {
        ("a",): (1, 2),
        ("a", "b"): (2, 3),
        ("a", "c"): (4, 4),
        ("a", "c", 0): (4, 4),
        ("a", "c", 1): (5, 5),
    }


def test_set_wins_over_options_over_the_file_over_defaults(write: Callable[[str], str]) -> None:
    resolved = resolve(
        write(GOOD + "  seed: 1\n"),
        ["training.log_interval=3"],
        {"training": {"batch_size": 8, "log_interval": 2}},
        defaults={"training": {"steps": 7, "seed": 2, "workers": 2, "batch_size": 1}},
    )
    training, source = resolved.config.training, resolved.provenance
    assert (training.steps, training.seed, training.workers) == (100, 1, 2)
    assert (training.batch_size, training.log_interval) == (8, 3)
    assert source["training.steps"] == "run.yaml:7"
    assert source["training.seed"] == "run.yaml:9"
    assert source["training.data_seed"] == "derived"
    assert source["training.workers"] == "chosen for the text"
    assert source["training.batch_size"] == "command line"
    assert source["training.log_interval"] == "--set training.log_interval=3"
    assert source["training.engine"] == "default"
    assert training.data_seed == 1


def test_every_value_has_a_source(write: Callable[[str], str]) -> None:
    text = GOOD.replace("model:\n  name: net\n  width: 12", "model: net") + (
        "regularizers:\n  - {name: shrink, strength: 1e-4}\n"
    )
    resolved = resolve(write(text), ["regularizers.0.strength=2", "model.dropout={inner: 0.1}"])
    values = flatten(resolved.config)
    assert values.keys() == resolved.provenance.keys()
    assert (values["model.name"], resolved.provenance["model.name"]) == ("net", "run.yaml:1")
    assert resolved.provenance["regularizers.0.name"] == "run.yaml:8"
    assert values["regularizers.0.strength"] == "2.0"
    assert resolved.provenance["regularizers.0.strength"] == "--set regularizers.0.strength=2"
    assert resolved.provenance["model.dropout.inner"] == "--set model.dropout={inner: 0.1}"
    assert resolved.provenance["model.dropout.outer"] == "default"
    assert resolved.provenance["data.text"] == "run.yaml:3"


def test_a_new_name_drops_the_settings_of_the_old_part(write: Callable[[str], str]) -> None:
    path = write(GOOD + "optimizer: {name: adamw, learning_rate: 0.5, beta: 0.8}\n")
    for change in ("optimizer=plain", "optimizer.name=plain", "optimizer={name: plain}"):
        config = resolve(path, [change]).config.optimizer
        assert (config.name, config.config) == ("plain", PlainConfig())
    order = ["optimizer.learning_rate=0.25", "optimizer.name=plain"]
    assert resolve(path, order).config.optimizer.config == PlainConfig(learning_rate=0.25)
    assert resolve(path, ["optimizer=adamw"]).config.optimizer.config.beta == 0.8
    assert resolve(path, ["optimizer.beta=0.7"]).config.optimizer.config == RateConfig(
        learning_rate=0.5, beta=0.7
    )
    by_option = resolve(path, overrides={"optimizer": "plain"}).config.optimizer
    assert by_option.config == PlainConfig()


def test_settings_without_a_name_go_to_the_default_part(write: Callable[[str], str]) -> None:
    config = resolve(write(GOOD), ["optimizer.beta=0.5", "sample.prompt='3'"]).config
    assert (config.optimizer.name, config.optimizer.config.beta) == ("adamw", 0.5)
    assert config.sample.prompt == "3"
    assert resolve(write(GOOD), ["sample.prompt=a=b"]).config.sample.prompt == "a=b"


BAD_SETS: list[tuple[str, str]] = [
    ("steps", "--set steps: need key.path=value, as in training.steps=500"),
    ("=3", "--set =3: need key.path=value, as in training.steps=500"),
    ("a..b=3", "--set a..b=3: need key.path=value, as in training.steps=500"),
    ("training.stesp=3", "--set training.stesp=3: unknown key; did you mean 'steps'?"),
    (
        "trainin.steps=3",
        "--set trainin.steps=3: trainin: unknown key; did you mean 'training'?",
    ),
    (
        "training.steps=ten",
        "--set training.steps=ten: found 'ten', need a whole number >= 1",
    ),
    (
        "training.steps.more=1",
        "--set training.steps.more=1: 'training.steps' is a value and has no keys below it",
    ),
    ("training.0=1", "--set training.0=1: 'training' is a section, not a list; found 0"),
    (
        "data.text.2=x",
        "--set data.text.2=x: 'data.text' is a list that has entries 0 to 1; found '2'",
    ),
    (
        "data.text.first=x",
        "--set data.text.first=x: 'data.text' is a list that has entries 0 to 1; found 'first'",
    ),
    (
        "regularizers.0=shrink",
        "--set regularizers.0=shrink: 'regularizers' is a list that is empty; found '0'",
    ),
    ("model={a: 1, a: 2}", "--set model={a: 1, a: 2}: 'a' is given twice"),
    ("model=[", "--set model=[:1: not valid YAML"),
    ("model=nat", "--set model=nat: model.name: unknown model 'nat'; did you mean 'net'?"),
    ("model.heads=5", "--set model.heads=5: 5 does not divide width 12"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_SETS)
def test_a_wrong_set_is_one_line(write: Callable[[str], str], change: str, expected: str) -> None:
    (line,) = lines_of(write(GOOD), change)
    assert line.startswith(expected)


def test_sections_do_not_change_once_read(write: Callable[[str], str]) -> None:
    config = resolve(write(GOOD)).config
    with pytest.raises(ValueError, match="frozen"):
        config.training.steps = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.model.name = "flat"  # type: ignore[misc]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False),
    TEXT,
    st.sampled_from([text for text, _ in SCALARS]),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUE)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    for text in (dump({"a": value}), "a: " + inline(value)):
        found = yaml_reader.parse(text, "x").value["a"]
        assert found == value
        assert repr(found) == repr(value)


POSITIVE = st.floats(min_value=1e-300, max_value=1e300)
WHOLE = st.integers(1, 10**6)
RAW_CONFIGS = st.fixed_dictionaries(
    {
        "model": st.one_of(
            st.just("flat"),
            st.fixed_dictionaries(
                {"name": st.just("net")},
                optional={
                    "width": st.integers(1, 50).map(lambda n: 2 * n),
                    "bias": st.booleans(),
                    "kind": st.sampled_from(["soft", "hard"]),
                    "dropout": st.floats(0, 0.99) | st.just({"inner": 0.25}),
                },
            ),
        ),
        "data": st.fixed_dictionaries(
            {"text": st.lists(TEXT.filter(bool).map("dataset:".__add__), min_size=1, max_size=3)},
            optional={
                "tokenizer": st.sampled_from(["char", {"name": "pairs", "warmup_steps": 3}]),
                "sampling": st.sampled_from(["random", "epoch"]),
                "split": st.fixed_dictionaries({"separator": TEXT.filter(bool)}),
            },
        ),
        "training": st.fixed_dictionaries(
            {"steps": st.integers(8, 10**6), "batch_size": WHOLE | st.just("full")},
            optional={
                "seed": st.integers(0, 2**63 - 1),
                "data_seed": st.integers(0, 2**63 - 1),
                "eval_interval": WHOLE,
                "clip_norm": st.floats(min_value=1e-300, max_value=1e9) | st.none(),
                "workers": st.integers(1, 64) | st.just("auto"),
                "engine": TEXT.filter(bool),
            },
        ),
    },
    optional={
        "optimizer": st.fixed_dictionaries({"learning_rate": POSITIVE}),
        "schedule": st.sampled_from(["constant", {"name": "ramp", "warmup_steps": 7}]),
        "regularizers": st.lists(
            st.fixed_dictionaries({"name": st.just("shrink"), "strength": POSITIVE}), max_size=1
        ),
        "sample": st.fixed_dictionaries({"prompt": TEXT.filter(bool)}),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=RAW_CONFIGS)
def test_a_configuration_survives_being_written_and_read(tmp_path: Path, raw: Any) -> None:
    config = resolve(None, overrides=raw).config
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config), encoding="utf-8", newline="\n")
    again = resolve(path)
    assert again.config == config
    assert to_yaml(again.config) == to_yaml(config)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    settled = {k: v for k, v in again.provenance.items() if not v.startswith(str(path))}
    assert settled == {}


MARKS = [": ", ":", "- ", "\n", "\n  ", "[", "]", "{", "}", ",", "'", '"', "#", "|", ">", "? "]
RARER = ["&x ", "*x", "!!str ", "---\n", "...\n", "%YAML 1.1\n", "\t", "1e5", "~", "\\", "é", "a"]
PIECES = st.lists(st.sampled_from([*MARKS, *RARER]), max_size=25).map("".join)


def failure(call: Callable[[], object]) -> str | None:
    """What the ConfigError of a call says, or None if it passes."""
    try:
        call()
    except ConfigError as error:
        return str(error)
    return None


@settings(max_examples=400)
@given(PIECES | st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    said = failure(lambda: yaml_reader.parse(text, "x"))
    assert said is None or (said.startswith("x:") and "\n" not in said)


@settings(max_examples=200)
@given(
    key=st.sampled_from(["model", "data", "training", "optimizer", "regularizers", "sample", "zz"]),
    value=st.recursive(
        SCALAR,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "text", "steps", "dropout", "inner", "tokenizer", "q"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=6,
    ),
)
def test_any_values_are_taken_or_refused_with_places(key: str, value: Any) -> None:
    base = {"model": "net", "data": {"text": "a"}, "training": {"steps": 1, "batch_size": 1}}
    raw = {**base, key: value}
    said = failure(lambda: flatten(resolve(None, overrides=raw).config))
    for line in (said or "").splitlines():
        assert line.startswith("command line: ")
