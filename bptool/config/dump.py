"""A configuration back to YAML, so that reading it again gives an equal one."""

from __future__ import annotations

from typing import Any

import yaml

from bptool.config import yaml_reader
from bptool.config.section import Section


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or :mod:`bptool.config.yaml_reader` reads as another type."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    safe = value.isprintable() and value.isascii()
    style = None if safe and "#" not in value else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
_PATTERNS = {
    "tag:yaml.org,2002:int": yaml_reader.INT,
    "tag:yaml.org,2002:float": yaml_reader.FLOAT,
}
for _tag, _pattern in _PATTERNS.items():
    _Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


def _write(value: Any, flow: bool) -> str:
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=flow,
        width=10_000,
    )


def dump(value: Any) -> str:
    """Plain values (dicts, lists, texts, numbers) as YAML, in the order given."""
    return _write(value, flow=False)


def inline(value: Any) -> str:
    """One plain value as YAML on a single line."""
    return _write(value, flow=True).removesuffix("\n").removesuffix("\n...")


def to_yaml(config: Section) -> str:
    """The whole configuration, defaults included, as a YAML file that :func:`resolve` reads."""
    return dump(config.model_dump(mode="json"))
