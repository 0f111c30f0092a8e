"""The configurations in configs/, the defaults for bare texts, the JSON Schema and the command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptool.cli.main import main
from bptool.comparison.budget import resolve_at
from bptool.config import yaml_reader
from bptool.config.defaults import for_text
from bptool.config.load import read_study, resolve, to_yaml
from bptool.config.report import section_of
from bptool.config.schema import RunConfig, json_schema
from bptool.config.section import FILE, Section
from bptool.config.study_section import study_schema
from bptool.config.yaml_reader import KeyPath
from bptool.errors import ConfigError
from bptool.registry import optimizers
from bptool.training.parts import build_model

pytestmark = pytest.mark.quick

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))
STUDIES = sorted((CONFIGS[0].parent / "studies").glob("*.yaml"))
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> list[str]:
    """What a JSON Schema of the keywords that ours uses has against a value."""
    if "$ref" in schema:
        assert schema["$ref"].startswith("#/$defs/")
        return faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    for key, accepted in (("oneOf", [1]), ("anyOf", range(1, 99))):
        if key in schema:
            tried = [faults(value, option, root, path) for option in schema[key]]
            if sum(not found for found in tried) not in accepted:
                return [f"{path}: fits none or several of {key}", *itertools.chain(*tried)]
    if "const" in schema and value != schema["const"]:
        return [f"{path}: not {schema['const']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: not one of {schema['enum']}"]
    kind = schema.get("type")
    if kind is not None:
        whole = kind == "integer" and isinstance(value, float) and value.is_integer()
        wrong = isinstance(value, bool) and kind != "boolean"
        if wrong or not (whole or isinstance(value, TYPES[kind])):
            return [f"{path}: not of type {kind}"]
    found: list[str] = []
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += [f"{path}: too small"] if value < schema.get("minimum", value) else []
        found += [f"{path}: too large"] if value > schema.get("maximum", value) else []
        found += (
            [f"{path}: too small"] if value <= schema.get("exclusiveMinimum", value - 1) else []
        )
        found += (
            [f"{path}: too large"] if value >= schema.get("exclusiveMaximum", value + 1) else []
        )
    if isinstance(value, list):
        found += [f"{path}: too short"] if len(value) < schema.get("minItems", 0) else []
        for index, item in enumerate(value):
            found += faults(item, schema.get("items", {}), root, f"{path}.{index}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [
            f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value
        ]
        for key, item in value.items():
            if key in known:
                found += faults(item, known[key], root, f"{path}.{key}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{path}.{key}: unknown")
            elif isinstance(schema.get("additionalProperties"), dict):
                found += faults(item, schema["additionalProperties"], root, f"{path}.{key}")
    return found


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*(references(item) for item in schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def test_the_folder_holds_what_the_documents_promise() -> None:
    assert {path.name for path in CONFIGS} >= {
        "quickstart.yaml",
        "shakespeare_char_cpu.yaml",
        "shakespeare_char.yaml",
        "names_mlp.yaml",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_each_shipped_configuration_loads_and_survives_writing(path: Path, tmp_path: Path) -> None:
    config = resolve(path).config
    copy = tmp_path / "config.yaml"
    copy.write_text(to_yaml(config), encoding="utf-8", newline="\n")
    assert resolve(copy).config == config
    for text in config.data.text:
        assert text.startswith("dataset:") or Path(text).is_file()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_schema_takes_each_shipped_configuration(path: Path, schema: dict[str, Any]) -> None:
    raw = yaml_reader.read(path).value
    assert faults(raw, schema, schema) == []
    full = resolve(path).config.model_dump(mode="json")
    assert faults(full, schema, schema) == []


WRONG: list[tuple[str, Any, str]] = [
    ("model.n_hed", 4, "unknown"),
    ("model.n_layer", 0, "too small"),
    ("model.name", "gpt3", "not gpt2"),
    ("model.dropout", {"embeding": 0.1}, "unknown"),
    ("training.steps", "ten", "not of type integer"),
    ("training.workers", "many", "not auto"),
    ("optimizer.name", "adamv", "not adamw"),
    ("data.split.by", "line", "not one of"),
    ("schedule", "cosin", "not one of"),
    ("extra", 1, "unknown"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_the_schema_refuses_what_the_program_refuses(
    schema: dict[str, Any], key: str, value: Any, expected: str
) -> None:
    raw = resolve(CONFIGS[-1]).config.model_dump(mode="json")
    node = raw
    *sections, last = key.split(".")
    for section in sections:
        node = node[section]
    node[last] = value
    assert any(expected in fault for fault in faults(raw, schema, schema))
    with pytest.raises(ValueError, match="validation error"):
        type(resolve(CONFIGS[-1]).config).model_validate(raw)


def test_the_schema_is_whole_and_says_what_each_key_is(schema: dict[str, Any]) -> None:
    assert {ref.removeprefix("#/$defs/") for ref in references(schema)} == set(schema["$defs"])
    for definition in schema["$defs"].values():
        for key, field in definition["properties"].items():
            assert field.get("description"), key
    models = schema["properties"]["model"]["oneOf"]
    names = ["gpt2", "llama", "mlp", "qwen2", "qwen3"]
    assert models[0]["enum"] == names
    assert [model["properties"]["name"]["const"] for model in models[1:]] == names


@pytest.fixture(scope="module")
def of_a_study() -> dict[str, Any]:
    return study_schema()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_schema_takes_each_shipped_study(path: Path, of_a_study: dict[str, Any]) -> None:
    raw = yaml_reader.read(path).value
    assert faults(raw, of_a_study, of_a_study) == []
    full = read_study(path).config.model_dump(mode="json")
    assert faults(full, of_a_study, of_a_study) == []


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_each_shipped_study_has_small_models_and_fair_budgets(path: Path) -> None:
    study = read_study(path).config
    assert len(study.workloads) >= 3
    assert len(study.optimizers) >= 8
    assert (study.n_candidates, study.final.seeds) >= (8, 5)
    for workload in study.workloads:
        config = resolve_at(workload.config, (), workload.set, study.steps).config
        n_vocab = getattr(config.data.tokenizer.config, "vocab_size", 256)
        assert build_model(config, n_vocab).n_parameters <= 300_000
        assert config.training.steps >= 400
        assert config.training.steps % config.training.eval_interval == 0


STUDY_WRONG: list[tuple[str, Any, str]] = [
    ("ruleset", "both", "not one of"),
    ("optimizers", ["adamv"], "not one of"),
    ("steps", 0, "too small"),
    ("tuning", {"trails": 3}, "unknown"),
    ("workloads", [{"name": "no-config"}], "missing"),
    ("schedules", {"sgd": "cosin"}, "not one of"),
    ("spaces", {"sgd": {"learning_rate": {"low": 1}}}, "missing"),
    ("extra", 1, "unknown"),
]


@pytest.mark.parametrize(("key", "value", "expected"), STUDY_WRONG)
def test_the_study_schema_refuses_what_the_program_refuses(
    of_a_study: dict[str, Any], key: str, value: Any, expected: str
) -> None:
    raw = {**read_study(STUDIES[0]).config.model_dump(mode="json"), key: value}
    assert any(expected in fault for fault in faults(raw, of_a_study, of_a_study))
    with pytest.raises(ConfigError):
        read_study(None, (), raw)


def test_the_study_schema_is_whole_and_says_what_each_key_is(of_a_study: dict[str, Any]) -> None:
    assert {ref.removeprefix("#/$defs/") for ref in references(of_a_study)} == set(
        of_a_study["$defs"]
    )
    for section in (of_a_study, *of_a_study["$defs"].values()):
        for key, field in section["properties"].items():
            assert field.get("description"), key
    assert of_a_study["properties"]["optimizers"]["items"]["enum"] == optimizers.names()


def test_the_command_shows_and_prints_studies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, of_a_study: dict[str, Any]
) -> None:
    assert main(["config", "schema", "--study"]) == 0
    assert json.loads(capsys.readouterr().out) == of_a_study
    assert main(["config", "show", str(STUDIES[0]), "--yaml"]) == 0
    copy = tmp_path / "study.yaml"
    copy.write_text(capsys.readouterr().out, encoding="utf-8")
    assert read_study(copy).config == read_study(STUDIES[0]).config
    assert main(["config", "show", str(STUDIES[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("ruleset ")]
    assert line.split()[1] == "tuned"
    assert line.split()[2].startswith(str(STUDIES[0]))


def test_nanogpts_cpu_recipe_is_kept_in_every_detail() -> None:
    config = resolve(CONFIGS[0].parent / "shakespeare_char_cpu.yaml").config
    assert config.model.config.model_dump() == {
        "n_layer": 4,
        "n_head": 4,
        "n_kv_head": None,
        "head_dim": None,
        "n_embd": 128,
        "n_hidden": None,
        "norm": "layernorm",
        "norm_epsilon": 1e-5,
        "qk_norm": False,
        "positions": "learned",
        "rotary_base": 10000.0,
        "mlp": "plain",
        "score_head": False,
        "context": 64,
        "bias": False,
        "activation": "gelu",
        "init_std": 0.02,
        "position_init": "normal",
        "tie_embeddings": True,
        "dropout": 0.0,
        "stochastic_depth": 0.0,
    }
    assert (config.training.steps, config.training.batch_size) == (2000, 12)
    assert (config.training.clip_norm, config.data.sampling) == (1.0, "random")
    assert (config.data.split.by, config.data.split.validation_fraction) == ("position", 0.1)
    rule = config.optimizer.config
    assert (rule.learning_rate, rule.beta1, rule.beta2, rule.eps) == (1e-3, 0.9, 0.99, 1e-8)
    assert (rule.weight_decay, config.regularizers) == (0.1, ())
    schedule = config.schedule.config
    assert (schedule.warmup_steps, schedule.final_fraction, schedule.decay_steps) == (
        100,
        0.1,
        None,
    )
    large = resolve(CONFIGS[0].parent / "shakespeare_char.yaml").config
    size = large.model.config
    assert (size.n_layer, size.n_head, size.n_embd, size.context) == (6, 6, 384, 256)
    assert (size.dropout, size.bias, size.activation) == (0.2, False, "gelu")
    assert (large.training.steps, large.training.batch_size) == (5000, 64)
    assert (large.optimizer, large.schedule) == (config.optimizer, config.schedule)


@given(st.integers(1, 10**11), st.integers(1, 5000))
def test_a_text_of_any_size_gets_a_configuration(n_characters: int, n_distinct: int) -> None:
    raw = for_text(n_characters, n_distinct)
    resolved = resolve(None, overrides={"data": {"text": ["book.txt"]}}, defaults=raw)
    config = resolved.config
    model = config.model.config
    assert resolved.provenance["training.steps"] == "chosen for the text"
    assert config.schedule.config.warmup_steps < config.training.steps
    characters = 5 if config.data.tokenizer.name == "bpe" else 1
    n_validation = n_characters * config.data.split.validation_fraction / characters
    assert n_validation > model.context or model.context == 8


def test_defaults_grow_with_the_text_and_stay_within_minutes() -> None:
    from bptool.config.defaults import SUSTAINED_FLOPS, flops_per_token

    widths = []
    for n_characters in (2_000, 50_000, 400_000, 1_000_000, 10_000_000, 10**9):
        raw = for_text(n_characters)
        model, training = raw["model"], raw["training"]
        vocab = raw["data"]["tokenizer"].get("vocab_size", 96)
        work = flops_per_token(model["n_layer"], model["n_embd"], model["context"], vocab)
        n_tokens = training["steps"] * training["batch_size"] * model["context"]
        assert work * n_tokens / SUSTAINED_FLOPS < 11 * 60
        widths.append(model["n_layer"] * model["n_embd"])
    assert widths == sorted(widths)
    assert for_text(2_000)["model"]["context"] == 64
    assert for_text(200)["model"]["context"] == 8


@pytest.mark.parametrize(
    ("n_characters", "n_steps", "dropout"),
    [
        (60_000, None, 0.2), (230_000, None, 0.3), (1_000_000, None, 0.1), (2_000_000, None, 0.0),
        (60_000, 300, 0.0), (230_000, 1500, 0.2), (1_000_000, 20_000, 0.3),
    ],
)  # fmt: skip
def test_dropout_follows_from_the_passes_over_the_text(
    n_characters: int, n_steps: int | None, dropout: float
) -> None:
    assert for_text(n_characters, n_steps=n_steps)["model"]["dropout"] == dropout


def test_byte_pairs_begin_where_they_pay() -> None:
    names = [for_text(n)["data"]["tokenizer"]["name"] for n in (20_000, 199_999, 200_000, 10**7)]
    assert names == ["char", "char", "bpe", "bpe"]


def test_config_show_says_where_values_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(CONFIGS[0].parent / "shakespeare_char_cpu.yaml")
    assert main(["config", "show", path, "--set", "training.seed=7"]) == 0
    rows = {row.split()[0]: row.split() for row in capsys.readouterr().out.splitlines() if row}
    assert rows["training.seed"] == ["training.seed", "7", "--set", "training.seed=7"]
    assert rows["training.data_seed"] == ["training.data_seed", "7", "derived"]
    assert rows["training.log_interval"] == ["training.log_interval", "10", "default"]
    assert rows["optimizer.beta2"][:2] == ["optimizer.beta2", "0.99"]
    assert rows["optimizer.beta2"][2].rpartition(":")[2].isdecimal()


def test_config_show_yaml_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "show", str(CONFIGS[0]), "--yaml"]) == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(capsys.readouterr().out, encoding="utf-8", newline="\n")
    assert resolve(copy).config == resolve(CONFIGS[0]).config


def test_config_show_lists_every_error_and_exits_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = ["--set", "model.n_hed=4", "--set", "training.steps=ten"]
    assert main(["config", "show", str(CONFIGS[0]), *changes]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "model.n_hed=4: unknown key; did you mean 'n_" in said.err
    assert "training.steps=ten: found 'ten', need a whole number >= 1" in said.err


def test_config_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def _paths(section: type[Section], raw: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key that is a path in a configuration with the choices of ``raw``."""
    for name, field in section.model_fields.items():
        if FILE in field.metadata:
            yield (*at, name)
            continue
        inner = section_of(field.annotation, raw.get(name) if isinstance(raw, dict) else None)
        if inner is not None:
            yield from _paths(inner, raw.get(name) if isinstance(raw, dict) else None, (*at, name))


def test_every_path_in_a_file_is_taken_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw: dict[str, Any] = {
        "model": {"name": "mlp"},
        "training": {"steps": 1, "batch_size": 4},
        "objective": {"name": "ppo"},
        "chat": {"template": "roles"},
        "data": {"text": ["x.txt"], "records": {"validation": ["x.txt"]}},
        "start": {"run": "x.txt"},
        "rollouts": {"reward": "x.txt", "mix_text": ["x.txt"]},
    }
    named = set(_paths(RunConfig, raw))
    assert named == {
        ("data", "text"), ("data", "records", "validation"), ("start", "run"),
        ("rollouts", "reward"), ("rollouts", "mix_text"),
    }  # fmt: skip
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "config.yaml"
    file.write_text(json.dumps(raw), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = resolve(file, ["model.name=gpt2", "model.score_head=true"]).config
    values = config.model_dump(mode="json")
    for path in named:
        value: Any = values
        for key in path:
            value = value[key]
        assert value in (str(tmp_path / "sub" / "x.txt"), [str(tmp_path / "sub" / "x.txt")]), path
