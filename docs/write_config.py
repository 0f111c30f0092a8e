"""Writes docs/config.md from the JSON Schema of a configuration: ``make docs``.

``tests/test_docs.py`` fails when the file is not what this script would write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptool.config.schema import json_schema
from bptool.config.study_section import study_schema
from bptool.files import write_text
from bptool.registry import optimizers

PAGE = Path(__file__).resolve().parent / "config.md"
HEAD = """# Configurations

A configuration is a YAML file with the sections below. Only `model`, `data` and `training` must be
there, and of their keys only those marked *required*:

```yaml
model: {name: gpt2, n_layer: 4, n_head: 4, n_embd: 128, context: 64}
data: {text: book.txt, tokenizer: char}
training: {steps: 2000, batch_size: 12}
```

- A part that is chosen by name (`model`, `data.tokenizer`, `optimizer`, `schedule`, `averaging`,
  each entry of `regularizers`) is a section with `name` and the part's own keys, or the name alone
  where the defaults will do: `optimizer: adamw`.
- A path in a file is relative to that file; on the command line, to the folder you are in.
- `3e-4` and `1e5` are numbers. A key given twice is refused. A text is not taken for a number, nor
  `true` for 1.
- `--set key.path=value` changes a value from the command line, with the value written as in YAML:
  `--set model.dropout=0.1`, `--set 'training.batch_size=full'`,
  `--set 'regularizers=[{name: l1, strength: 1e-5}]'`. It wins over the file.
- Everything wrong is reported at once, each with file, line and key, what was found and what would
  do. `bptool config show FILE` checks a file and prints every value with where it came from.
- `bptool config schema` prints the JSON Schema of what follows. Save it and put
  `# yaml-language-server: $schema=PATH` in the first line of a configuration: editors then complete
  and check while you type.
- Parts of your own: [plugins.md](plugins.md). Their keys are checked as those below are, but not
  listed here.

This page is written by `make docs` from that schema.
"""
SECTIONS = (
    *("model", "data", "training", "optimizer", "schedule", "regularizers", "averaging"),
    *("start", "lora", "chat", "objective", "rollouts", "sample"),
)
INTRODUCTIONS = {
    "model": "`gpt2` is the transformer of Radford et al. (2019): normalization before each "
    "branch, learned positions. `llama` (Touvron et al. 2023), `qwen2` and `qwen3` are the same "
    "transformer with other defaults; any of their keys may be changed, so that `llama` with "
    "`norm: layernorm` is a model too. `mlp` is the feed-forward model of Bengio et al. (2003).",
    "training": "`batch_size: 1` is stochastic gradient descent as first defined, `full` is "
    "gradient descent on the whole training text. With `micro_batch_size` the gradient of a batch "
    "is added up over smaller ones, with the same result up to rounding and less memory. The "
    "gradient is clipped in one way at most.",
    "optimizer": "Definitions and defaults are PyTorch's where it has the rule, else the authors'; "
    "the files in `bptool/optim/` say where frameworks differ. Biases and norms are not decayed.",
    "schedule": "Every schedule begins with a linear warm-up, if `warmup_steps` is not 0. "
    "[learning-rate.md](learning-rate.md) shows their shapes.",
    "regularizers": "A list. `l1` and `l2` are penalties on weights that are decayed, "
    "`gradient-noise` changes the gradient, `max-norm` the weights after each update. Dropout and "
    "stochastic depth belong to the model, decoupled weight decay to the optimizer, label "
    "smoothing, z-loss, clipping and early stopping to `training`: "
    "[regularization.md](regularization.md) has them all in one table.",
    "start": "The model, its sizes and the tokenizer are then those of that run; see "
    "[fine-tuning.md](fine-tuning.md).",
    "lora": "Only adapters are trained, on the frozen weights of the run in `start`; "
    "[fine-tuning.md](fine-tuning.md#low-rank-adapters) says what that saves.",
    "chat": "[fine-tuning.md](fine-tuning.md) has the templates.",
    "objective": "What pretraining and `bptool finetune sft` minimise is `next-token`; the others "
    "are those of `bptool finetune dpo`, `reward`, `ppo` and `grpo`.",
    "averaging": "With an average, each evaluation measures it beside the weights as trained; the "
    "best checkpoint is the one whose average is best, and `generate` and `eval` load the average.",
}


SHARED_INTRODUCTIONS = {
    "groups": "Every optimizer has `groups`, a list of parameter groups: other settings for the "
    'tensors whose names match, as in `groups: [{match: "wte.*", learning_rate_factor: 0.1, '
    "weight_decay: 0}]`. A pattern that matches no tensor is refused. The names are those of "
    "[a checkpoint](run-folder.md#checkpoints); [optimizers.md](optimizers.md) compares the rules.",
}

STUDIES = """## Studies

`bptool compare-optimizers` reads a study, a file of its own with these keys; `workloads` and
`optimizers` must be there. What it says is checked before anything runs, and `--set` changes it as
it changes a configuration. `bptool config schema --study` prints its JSON Schema.
[comparison.md](comparison.md) says how a study is run and read.

```yaml
workloads:
  - {config: quickstart.yaml, name: small-batch, set: {training: {batch_size: 8}}}
optimizers: [adamw, sgd, muon]
ruleset: tuned
steps: 400
tuning: {trials: 8}
spaces:
  sgd: {learning_rate: {low: 0.01, high: 10}}
  muon: {learning_rate: {low: 1e-3, high: 0.1}, nesterov: [true, false]}
```
"""

LARGEST_SHOWN = 2**53
"""Upper bounds from here on only say what fits into 64 bits."""


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}".replace("e-0", "e-")


def bounds(schema: dict[str, Any]) -> str:
    """``, 1 to 1,000`` and the like."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if high is not None and high >= LARGEST_SHOWN:
        high = None
    if below is not None and below >= LARGEST_SHOWN:
        below = None
    if low is not None and high is not None:
        return f", {number(low)} to {number(high)}"
    parts = []
    if low is not None:
        parts.append(f"{number(low)} or more")
    if above is not None:
        parts.append(f"above {number(above)}")
    if high is not None:
        parts.append(f"{number(high)} at most")
    if below is not None:
        parts.append(f"below {number(below)}")
    return ", " + ", ".join(parts) if parts else ""


def kind(schema: dict[str, Any]) -> str:
    """What may stand for a key, in words."""
    if schema.get("enum") == optimizers.names():
        return "an optimizer's name"
    if "anyOf" in schema:
        return ", or ".join(kind(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "$ref" in schema or "oneOf" in schema:
        return "a section"
    names = {"integer": "whole number", "boolean": "`true` or `false`", "null": "`null`"}
    if schema["type"] == "object":
        return "a section"
    if schema["type"] == "array":
        items = schema["items"]
        if "enum" in items:
            return "a list of names"
        if "oneOf" in items:
            return "a list"
        each = kind(items)
        return f"a list, each a {each}" if "," in each else f"a list of {each.removeprefix('a ')}s"
    name = names.get(schema["type"], {"string": "text"}.get(schema["type"], schema["type"]))
    return name + bounds(schema)


def default_of(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "*required*"
    if "default" not in schema:
        return ""
    value = schema["default"]
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower() if value is not None else 'null'}`"
    if isinstance(value, str):
        return f"`{value}`" if value and value.isprintable() else f"`{json.dumps(value)}`"
    if isinstance(value, list):
        return "`[" + ", ".join(map(str, value)) + "]`"
    return "`" + number(value).replace(",", "") + "`"


SHARED = ("groups",)
"""Keys of every part of a kind that are described once, before the parts."""


def table(section: dict[str, Any]) -> str:
    """The keys of a section, one a row; those of ``SHARED`` are left out."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key, schema in section["properties"].items():
        if key in SHARED or ("const" in schema and key == "name"):
            continue
        default = default_of(schema, key in section.get("required", ()))
        says = " ".join(schema.get("description", "").replace("``", "`").split()).rstrip(".")
        says = says[:1].lower() + says[1:] if not says[:2].isupper() else says
        cells = (f"`{key}`", kind(schema), default, says)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else "No keys but `name`."


def part_sections(key: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    """A heading and a table for each part that a name can choose, after what they share."""
    first = schema["oneOf"][1]["properties"]
    for shared in (name for name in SHARED if name in first):
        inner = first[shared]["items"]["$ref"].rpartition("/")[2]
        yield f"### `{key}.{shared}[]`"
        yield SHARED_INTRODUCTIONS[shared]
        yield table(definitions[inner])
    described: dict[frozenset[str], dict[str, Any]] = {}
    for part in schema["oneOf"]:
        if "properties" not in part:
            continue
        name = part["properties"]["name"]["const"]
        yield f"### `{key}: {name}`"
        keys = frozenset(part["properties"])
        if len(keys) > 2 and keys in described:  # a preset of another part
            other = described[keys]
            changed = {
                k: v
                for k, v in part["properties"].items()
                if v.get("default") != other["properties"][k].get("default")
            }
            yield f"The keys of `{other['properties']['name']['const']}`, with other defaults:"
            yield table({**part, "properties": changed})
            continue
        described[keys] = part
        yield table(part)
        yield from below(f"{key}", part, definitions, f" of `{name}`")


def below(
    path: str, section: dict[str, Any], definitions: dict[str, Any], of: str = ""
) -> Iterator[str]:
    """The sections inside a section, which may be ``of`` a part."""
    for key, schema in section["properties"].items():
        options = [schema, *schema.get("anyOf", [])]
        if "oneOf" in schema:
            yield from part_sections(f"{path}.{key}", schema, definitions)
        for option in options:
            if "$ref" in option:
                inner = definitions[option["$ref"].rpartition("/")[2]]
                yield f"### `{path}.{key}`{of}"
                yield table(inner)


def page() -> str:
    """The whole reference."""
    return "\n\n".join([*configuration_parts(), *study_parts()]) + "\n"


def study_parts() -> Iterator[str]:
    """The reference of a ``STUDY.yaml``."""
    schema = study_schema()
    yield STUDIES.rstrip()
    yield table(schema)
    inner = {
        "`workloads[]`": "WorkloadConfig",
        "`tuning`": "TuningConfig",
        "`final`": "FinalConfig",
        "a range in `spaces`": "RangeConfig",
    }
    for name, definition in inner.items():
        found = schema["$defs"][definition]
        yield f"### {name}"
        yield " ".join(found["description"].split())
        yield table(found)


def configuration_parts() -> list[str]:
    """The reference of a configuration."""
    schema = json_schema()
    definitions, parts = schema["$defs"], [HEAD.rstrip()]
    for key in SECTIONS:
        section = schema["properties"][key]
        parts.append(f"## `{key}`")
        required = key in schema["required"]
        default = f" Default: {default_of(section, False)}." if section.get("default") else ""
        description = section["description"]
        parts.append(f"{description[:1].upper()}{description[1:]}.{default}")
        if required:
            parts[-1] += " Required."
        if key in INTRODUCTIONS:
            parts.append(INTRODUCTIONS[key])
        if "oneOf" in section:
            parts.extend(part_sections(key, section, definitions))
        elif "items" in section:
            parts.extend(part_sections(f"{key}[]", section["items"], definitions))
        else:
            named = next((o for o in section.get("anyOf", [section]) if "$ref" in o), None)
            inner = definitions[named["$ref"].rpartition("/")[2]] if named else section
            parts.append(table(inner))
            parts.extend(below(key, inner, definitions))
    return parts


if __name__ == "__main__":
    write_text(PAGE, page())
    print(f"wrote {PAGE}")
