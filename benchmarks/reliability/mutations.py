"""Valid files changed at random, by what is in them: bytes, lines, values of JSON or YAML, headers.

A compressed file is mostly changed inside, and a file with a header in JSON gets one that fits its
length, so that the readers behind the first check are reached too.
"""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 2**64, 1e308, float("nan"), "", "\0", "../../x", "\ud800"),
    *([], {}, [[]], {"a": []}, "x" * 1000, [0] * 1000),
)
PIECES = (
    *(b"\0", b"[" * 500, b'{"a":' * 300, b"\xff", b"9" * 500, b"1e999", b"\r", b"\xef\xbb\xbf"),
    *(b'"', b",", b"\n", b"\n\n", b"\\u0000", b"\\ud800", b"[" * 3000, b"-", b": ", b"NaN"),
)
HEADERS = {".safetensors": b"", ".tokens": b"BPTOKENS"}
"""What stands before the length of the header."""

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def dump(value: Any) -> bytes:
    """JSON, as the standard library writes it."""
    return json.dumps(value).encode()


def changed(name: str, data: bytes, draw: random.Random, put: Any = None) -> bytes:
    """The content of a file called ``name``, changed.

    Args:
        put: a value to put somewhere, a random one of ``HOSTILE_VALUES`` otherwise.
    """
    if draw.random() < 0.7:
        try:
            return _changed_inside(name, data, draw, put)
        except (ValueError, RecursionError, OSError, KeyError, IndexError, yaml.YAMLError):
            pass
    return _bytes_changed(data, draw)


def _changed_inside(name: str, data: bytes, draw: random.Random, put: Any) -> bytes:
    stem, _, suffix = name.rpartition(".")
    if suffix == "gz":
        return gzip.compress(changed(stem, gzip.decompress(data), draw, put), 1)
    if suffix == "zst":
        import zstandard

        inside = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        return zstandard.ZstdCompressor(1).compress(changed(stem, inside, draw, put))
    if suffix == "jsonl":
        lines = data.split(b"\n")
        at = draw.randrange(len(lines))
        lines[at] = dump(_value_changed(json.loads(lines[at]), draw, put))
        return b"\n".join(lines)
    if suffix == "yaml":
        value = _value_changed(yaml.safe_load(data), draw, put)
        return yaml.safe_dump(value).encode("utf-8", errors="surrogatepass")
    if f".{suffix}" in HEADERS:
        magic = HEADERS[f".{suffix}"]
        start = len(magic) + 8
        length = int.from_bytes(data[len(magic) : start], "little")
        header = dump(_value_changed(json.loads(data[start : start + length]), draw, put))
        if len(header) < length and draw.random() < 0.8:
            header = header.ljust(length)
        return magic + len(header).to_bytes(8, "little") + header + data[start + length :]
    return dump(_value_changed(json.loads(data), draw, put))


def _bytes_changed(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(found) + 1)
        match draw.randrange(5):
            case 0 if found:
                found[at % len(found)] = draw.randrange(256)
            case 1:
                found[at:at] = draw.choice(PIECES)
            case 2:
                del found[at : at + draw.randrange(1, 20)]
            case 3:
                found[at:at] = found[draw.randrange(len(found) + 1) :][: draw.randrange(1, 200)]
            case _:
                del found[at:]
    return bytes(found)


def _value_changed(value: Any, draw: random.Random, put: Any) -> Any:
    """JSON with one value of it replaced, doubled or left out."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        if draw.random() < 0.15:
            return rest
        return rest | {key: _value_changed(value[key], draw, put)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at, more = draw.randrange(len(value)), draw.randrange(2)
        return [*value[:at], _value_changed(value[at], draw, put), *value[at + more :]]
    return draw.choice(HOSTILE_VALUES) if put is None else put


def from_hypothesis(n: int, number: int) -> list[Any]:
    """Values of JSON that hypothesis makes from a seed."""
    found: list[Any] = []

    @seed(number)
    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(JSON_VALUES)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found
