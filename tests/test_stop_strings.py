"""Strings that end a text, however it is divided into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bptool.cli.stop import stop_strings
from bptool.inference.stop_strings import StopStrings

texts = st.text(st.sampled_from("ab\n"), max_size=12)
strings = st.text(st.sampled_from("ab\n"), min_size=1, max_size=4)


@given(
    texts, st.lists(st.text(st.sampled_from("ab\n"), min_size=1, max_size=4), max_size=3), st.data()
)
def test_a_text_ends_before_the_string_that_is_whole_first(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    ends = [n for n in range(1, len(text) + 1) if any(text[:n].endswith(s) for s in stops)]
    expected = text
    if ends:
        whole = text[: ends[0]]
        expected = min((whole.removesuffix(s) for s in stops), key=len)
    cut, shown, rest = StopStrings(stops), "", text
    while rest and not cut.ended:
        n = data.draw(st.integers(1, len(rest)))
        shown += cut.push(rest[:n])
        rest = rest[n:]
        assert expected.startswith(shown)  # nothing is shown that is taken back later
    assert shown + cut.finish() == expected
    assert cut.ended == bool(ends)


def test_a_text_is_held_back_only_as_long_as_a_string_may_come() -> None:
    cut = StopStrings(["User:"])
    assert [cut.push(piece) for piece in ("It is U", "SA. Use", "ful. User", ":")] == [
        *("It is ", "USA. ", "Useful. ", "")
    ]
    assert cut.ended
    assert cut.push("more") == cut.finish() == ""


def test_line_ends_can_be_typed() -> None:
    assert stop_strings(["\\n", "a\\tb", "c"]) == ("\n", "a\tb", "c")
    assert stop_strings(None) == ()
