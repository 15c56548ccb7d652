"""Read the chosen option, or yes and no, out of a reply. Strict: what is not clearly one is none, and wrong."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_LEAD_IN = r"(?:answer|option|choice)\s*(?:is\s*:?|:)"
_AFTER_LETTER = r"(?=$|\s*$|[.):,;!\]\"'*\n]|\s+(?:because|since|as)\b)"
# "(B)", "B.", "B) a dog", "B: a dog"; lower case only where brackets or punctuation make it a letter. "E.g." is a word.
_LETTER_FIRST = re.compile(r"^\(\s*([A-Za-z])\s*\)(.*)$|^([A-Za-z])\s*((?:[.):,](?!\w\.)|$).*)$", re.DOTALL)
_UPPER_THEN_TEXT = re.compile(r"^([A-Z])\s+(.+)$", re.DOTALL)
_REASON = re.compile(r"^(?:because|since|as|is)\b")
_STATED = re.compile(_LEAD_IN + r"\s*[\"'*(\[]*\s*([A-Z])" + _AFTER_LETTER, re.IGNORECASE)
_NAMED = re.compile(r"^(?:the\s+)?(?:answer|option|choice)\s+\(?([A-Z])" + _AFTER_LETTER, re.IGNORECASE)
_SECOND = re.compile(r"^\s*(?:[,/&]|and\b|or\b)\s*\(?([A-Za-z])(?:[).:,]|\s*$|\s+(?:and|or)\b)")


def strip_label(option: str, letter: str) -> str:
    """The text of an option without its own label: `A. a dog` and `(A) a dog` are `a dog`."""
    return re.sub(rf"^\s*\(?{letter}[.):]\)?\s*", "", option).strip()


def parse_choice(reply: str | None, options: Sequence[str]) -> str | None:
    """The letter that `reply` chooses among `options` (text with or without labels, at most 26), or None.

    Accepted: the letter alone (`B`, `b`, `(B)`, `B.`), a letter with text behind it (`B) text`, `B. text`, `B: text`,
    `B because`; a bare `B text` only if the text is option B's), a statement (`Answer: B`, `The best answer is B`,
    `Best option:(B`), and the text of exactly one option. Two different letters, a letter beyond the options and a
    letter that merely starts a word (`Cat`, `Definitely not`) choose nothing.
    """
    if reply is None:
        return None
    letters = string.ascii_uppercase[: len(options)]
    texts = [strip_label(str(option), letter) for option, letter in zip(options, letters, strict=True)]
    reply = reply.strip().strip("*\"'` \t\n")
    stated = {found.upper() for found in _STATED.findall(reply) or _NAMED.findall(reply)}
    if stated:
        return stated.pop() if len(stated) == 1 and stated <= set(letters) else None
    tail = re.sub(rf"^.*?{_LEAD_IN}\s*\(?", "", reply, count=1, flags=re.IGNORECASE | re.DOTALL).strip("*\"'` \t\n")
    for text in (reply, tail):
        letter = _leading(text, letters, texts) or _whole_text(text, letters, texts)
        if letter is not None:
            return letter
    return None


_YES_NO_FIRST = re.compile(r"^(yes|no)(?=$|[^\w/'’-]|['’-](?!\w))(?!\s*(?:/|or\b|and\b)\s*(?:yes|no)\b)", re.IGNORECASE)
_YES_NO_STATED = re.compile(
    r"\banswer\s*(?:is\s*:?|:)\s*[\"'*(\[]*\s*(yes|no)\b(?!\s*(?:/|or\b|and\b)\s*(?:yes|no)\b)", re.IGNORECASE
)


def parse_yes_no(reply: str | None) -> str | None:
    """`Yes` or `No` where `reply` clearly says one of them, else None.

    Accepted: the word as the first one (`No, there is none`), and a statement (`The answer is yes`, `Answer: no`). Not:
    the word anywhere else (`There is no sign of it`, `It says yes`), both in one breath (`Yes or no`), two
    different statements, and words that only begin so (`Not sure`, `Nobody`, `no-one`).
    """
    if reply is None:
        return None
    reply = reply.strip().lstrip("*\"'`([{ \t\n")
    said = {found.capitalize() for found in _YES_NO_STATED.findall(reply)}
    first = _YES_NO_FIRST.match(reply)
    if first:
        said.add(first[1].capitalize())
    return said.pop() if len(said) == 1 else None


def _leading(reply: str, letters: str, texts: Sequence[str]) -> str | None:
    first = _LETTER_FIRST.match(reply)
    if first:
        letter, rest = (first[1], first[2]) if first[1] else (first[3], first[4])
        if letter.upper() not in letters:
            return None
        second = _SECOND.match(rest)
        if second and second[1].upper() in letters and second[1].upper() != letter.upper():
            return None
        return letter.upper()
    spaced = _UPPER_THEN_TEXT.match(reply)
    if spaced and spaced[1] in letters:
        own_text = _plain(spaced[2]) == _plain(texts[letters.index(spaced[1])])
        return spaced[1] if own_text or _REASON.match(spaced[2]) else None
    return None


def _whole_text(reply: str, letters: str, texts: Sequence[str]) -> str | None:
    wanted = _plain(reply)
    same = [letter for letter, text in zip(letters, texts, strict=True) if wanted and _plain(text) == wanted]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'*`")
