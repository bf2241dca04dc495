"""What make lint finds in the project's English."""

import pytest

from tests import prose


@pytest.mark.parametrize(
    "text, message",
    [
        ("No more was to be had.", "'was to be had': write is available."),
        ("Besides the two rules stand others.", "'Besides the two rules stand': write the subject first."),
        ("It is first of all a test.", "Redundancy"),  # proselint's own
        ("{value}`a` of {value}`b` are\nin {claim}`c`.", "3 numbers in a sentence"),
    ],
)
def test_what_readers_stumble_over_is_found(text, message):
    ((line, found),) = prose.problems("x.md", f"A first line.\n\n{text}\n")
    assert line == 3 and message in found


@pytest.mark.parametrize(
    "text",
    [
        "A classifier changes {value}`a` of {value}`b` decisions. It keeps {claim}`c`.",
        "`x was to be had` and {term}`surely`.",
        "```{code}\nit surely holds not\n```",
        "Made by {value}`a @command`, {value}`b @command` and {value}`c @command`.",
    ],
)
def test_plain_sentences_code_and_commands_pass(text):
    assert prose.problems("x.md", text) == []
