"""Messages of errors: whatever names and values are in them, a terminal shows them and they end."""

from __future__ import annotations

import pytest

from mdtbench.base.errors import LONGEST, AssetError, UsageError, printable, unknown_name


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;title\x07", "a\rb", "\x9b31m", "\x00", "\x7f"])
def test_a_terminal_obeys_nothing_in_a_message(text):
    told = str(AssetError(f"{text}.glb: it is damaged"))
    assert told == printable(told)
    assert "\\x" in told
    assert told.endswith(".glb: it is damaged")


def test_letters_of_all_languages_stay():
    assert printable("café 漢字 ± →\n\tx") == "café 漢字 ± →\n\tx"


def test_a_message_ends_and_keeps_what_to_do():
    told = str(UsageError("no column 'id' (found: " + "x" * 10**6 + "). Needed: id, file."))
    assert len(told) < LONGEST + 20
    assert told.endswith("Needed: id, file.")
    assert len(str(unknown_name("method", "m" * 5000, ["vm", "mdt"]))) < LONGEST + 20
