"""The parsers: what chooses an option or says yes or no, and what does not."""

from __future__ import annotations

import pytest

from harness.benchmarks.choices import parse_choice, parse_yes_no

PLAIN = ["red", "a cat", "Definitely not", "blue and green"]
LABELLED = ["A. red", "B. a cat", "C. Definitely not", "D. blue and green"]
FIVE = [*PLAIN, "None of these"]


@pytest.mark.parametrize("options", [PLAIN, LABELLED])
@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" B \n", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("(B)", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("'B'", "B"),
        ("B) a cat", "B"),
        ("B. a cat", "B"),
        ("B: a cat", "B"),
        ("B, a cat", "B"),
        ("(B) a cat", "B"),
        ("(B) something else", "B"),
        ("B a cat", "B"),
        ("B because it purrs", "B"),
        ("B.\nThe red one is A.", "B"),
        ("Answer: B", "B"),
        ("Answer: (B)", "B"),
        ("answer: b.", "B"),
        ("Answer is B", "B"),
        ("The best answer is B", "B"),
        ("The best answer is B.", "B"),
        ("The correct answer is: (B) a cat", "B"),
        ("The correct option is C", "C"),
        ("Best answer: C", "C"),
        ("Best option:(C", "C"),
        ("Best option: (C) Definitely not", "C"),
        ("Option C", "C"),
        ("I think the answer is D, because of the colour.", "D"),
        ("Final answer: **D**", "D"),
        ("a cat", "B"),
        ("A cat.", "B"),
        ("Definitely not", "C"),
        ("The answer is a cat", "B"),
        ("Answer: blue and  green", "D"),
        ("Answer: B. Option A is wrong because nothing is red.", "B"),
        ("D, not B", "D"),
    ],
)
def test_a_clear_choice(reply: str, letter: str, options: list[str]) -> None:
    assert parse_choice(reply, options) == letter


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "",
        "   ",
        "(",
        "()",
        "None",
        "N/A",
        "Z",
        "E",
        "(E)",
        "Answer: E",
        "Cat",
        "Because",
        "Definitely",
        "Certainly not",
        "A dog",
        "A and B",
        "A, B",
        "A/B",
        "A or B",
        "(A) or (B)",
        "Answer: A. Answer: B.",
        "The answer is not B",
        "not B",
        "e.g. the cat",
        "B2",
        "AB",
        "I cannot see the video.",
        "I'd say it depends",
        "Failed to obtain answer via API.",
        "1",
    ],
)
def test_no_clear_choice(reply: str | None) -> None:
    assert parse_choice(reply, PLAIN) is None


def test_texts_that_occur_twice_choose_nothing() -> None:
    assert parse_choice("red", ["red", "red", "blue"]) is None
    assert parse_choice("B", ["red", "red", "blue"]) == "B"


def test_the_fifth_option_counts_where_there_is_one() -> None:
    assert parse_choice("E", FIVE) == parse_choice("none of these", FIVE) == "E"
    assert parse_choice("None", [*PLAIN, "None"]) == "E"
    assert parse_choice("007", ["7", "007"]) == "B"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Yes", "Yes"),
        ("no", "No"),
        (" NO.\n", "No"),
        ("**Yes**", "Yes"),
        ("'yes'", "Yes"),
        ("(No)", "No"),
        ("Yes, there is no doubt.", "Yes"),
        ("No, it is not, yes?", "No"),
        ("No there is none", "No"),
        ("Yes\nbecause it is", "Yes"),
        ("The answer is yes.", "Yes"),
        ("I see none. Answer: No", "No"),
        ("Answer is: **no**", "No"),
        ("Yes. The answer is yes.", "Yes"),
        ("yes; not the other", "Yes"),
    ],
)
def test_a_clear_yes_or_no(reply: str, said: str) -> None:
    assert parse_yes_no(reply) == said


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "",
        " ",
        "Not sure",
        "Nobody",
        "no-one is there",
        "yes/no",
        "Yes or no",
        "No and yes",
        "There is no sign of it",
        "It says yes",
        "Yesterday",
        "Yes. The answer is no.",
        "The answer is yes or no",
        "Answer: yes. Answer: no.",
        "No's",
        "N",
        "True",
        "A",
        "Failed to obtain answer via API.",
    ],
)
def test_no_clear_yes_or_no(reply: str | None) -> None:
    assert parse_yes_no(reply) is None
