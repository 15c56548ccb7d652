"""WordNet read from its own database files: senses, base forms, and Wu-Palmer similarity as nltk computes it.

nltk's reader cannot be used: it refuses folders outside its own search path (Debian's /usr/share/wordnet among them)
and wants a file, `lexnames`, that Debian does not ship.
"""

from __future__ import annotations

import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from model_wrappers.errors import UserError

PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
DEBIAN = Path("/usr/share/wordnet")
ABSENT = (
    "WUPS needs WordNet, which is not installed; get it with `apt-get install wordnet-base` "
    "or `python -m nltk.downloader wordnet`"
)

# WordNet's own rules of detachment (man 7 morphy), with the verb and adjective rules in nltk's order.
_ENDINGS = {
    "n": [("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")]
    + [("men", "man"), ("ies", "y")],
    "v": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "a": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "r": [],
}


@dataclass(frozen=True, order=True)
class Sense:
    """One synset. `name` as nltk writes it (`dog.n.01`); it orders senses where similarity ties."""

    name: str
    part: str
    offset: int


_ROOT = Sense("*ROOT*", "", -1)


class WordNet:
    """The database in memory. `read(name)` gives the bytes of `index.noun`, `data.noun`, `noun.exc`, `cntlist.rev`."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._offsets: dict[str, dict[str, list[int]]] = {}
        self._data: dict[str, bytes] = {}
        self._exceptions: dict[str, dict[str, list[str]]] = {}
        for part, suffix in PARTS.items():
            self._data[part] = read(f"data.{suffix}")
            exceptions = (line.split() for line in read(f"{suffix}.exc").decode().splitlines())
            self._exceptions[part] = {words[0]: words[1:] for words in exceptions if words}
            for line in read(f"index.{suffix}").decode().splitlines():
                if not line.startswith(" "):
                    fields = line.split()
                    self._offsets.setdefault(fields[0], {})[part] = [int(o) for o in fields[-int(fields[2]) :]]
        self._counts: dict[tuple[str, str], int] = {}
        for line in read("cntlist.rev").decode().splitlines():
            key, _, count = line.split()
            word, _, kind = key.partition("%")
            part = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}[kind[0]]
            self._counts[word, part] = self._counts.get((word, part), 0) + int(count)
        self._hypernyms = cache(self._read_hypernyms)
        self._named = cache(self._read_sense)
        self.similarity = cache(self._similarity)

    @classmethod
    def load(cls) -> WordNet:
        """WordNet from the first place that has it, see `places`; loaded once. Raises UserError when there is none."""
        return _load()

    def base_forms(self, word: str, part: str) -> list[str]:
        """WordNet's morphy: the entries of part of speech `part` that `word` (lower case) may be a form of."""
        forms = self._exceptions[part].get(word)
        if forms is None:
            forms = [word[: -len(old)] + new for old, new in _ENDINGS[part] if word.endswith(old)]
        return [form for form in dict.fromkeys([word, *forms]) if part in self._offsets.get(form, {})]

    def count(self, word: str, part: str) -> int:
        """How often `word` occurs as `part` in WordNet's sense-tagged texts."""
        return self._counts.get((word, part), 0)

    def first_sense(self, word: str) -> Sense | None:
        """The first sense of `word`: nouns before verbs, adjectives and adverbs, as nltk's `synsets(word)[0]`."""
        word = word.lower()
        for part in PARTS:
            for form in self.base_forms(word, part):
                return self._named(part, self._offsets[form][part][0])
        return None

    def _similarity(self, one: Sense, other: Sense) -> float:
        """Wu-Palmer similarity in (0, 1], nltk's `wup_similarity`: verbs and modifiers hang under one made-up root."""
        rooted = not (one.part == other.part == "n")
        above_one, above_other = self._distances(one, rooted), self._distances(other, rooted)
        common = [sense for sense in above_one if sense in above_other]
        if not common:
            return 0.0
        deepest = max(self._depth(sense, min) for sense in common)
        subsumers = sorted(sense for sense in common if self._depth(sense, min) == deepest)
        subsumer = one if one in subsumers else subsumers[0]
        depth = self._depth(subsumer, max) + 1
        above = {_ROOT: 0} if subsumer is _ROOT else self._distances(subsumer, rooted)
        # nltk's way from a sense to its subsumer may lead over an ancestor of both, where that is shorter.
        steps = sum(
            min(up + above[sense] for sense, up in paths.items() if sense in above)
            for paths in (above_one, above_other)
        )
        return 2.0 * depth / (steps + 2 * depth)

    def _distances(self, sense: Sense, rooted: bool) -> dict[Sense, int]:
        """Edges from `sense` up to everything above it. The made-up root lies above the farthest of these."""
        found: dict[Sense, int] = {}
        queue = deque([(sense, 0)])
        while queue:
            here, steps = queue.popleft()
            if here not in found:
                found[here] = steps
                queue.extend((above, steps + 1) for above in self._hypernyms(here))
        if rooted:
            found[_ROOT] = max(found.values()) + 1
        return found

    def _depth(self, sense: Sense, choose: Callable[[Iterator[int]], int]) -> int:
        above = self._hypernyms(sense)
        return 1 + choose(self._depth(parent, choose) for parent in above) if above else 0

    def _fields(self, part: str, offset: int) -> list[str]:
        data = self._data[part]
        return data[offset : data.index(b"|", offset)].decode().split()

    def _read_hypernyms(self, sense: Sense) -> tuple[Sense, ...]:
        if sense is _ROOT:
            return ()
        fields = self._fields(sense.part, sense.offset)
        pointers = fields[4 + 2 * int(fields[3], 16) :]
        above = []
        for start in range(1, 1 + 4 * int(pointers[0]), 4):
            symbol, offset, part, words = pointers[start : start + 4]
            if symbol in {"@", "@i"} and words == "0000":
                above.append(self._named(part, int(offset)))
        return tuple(above)

    def _read_sense(self, part: str, offset: int) -> Sense:
        fields = self._fields(part, offset)
        word = fields[4].split("(")[0].lower()
        rank = self._offsets[word][part].index(offset) + 1
        return Sense(f"{word}.{fields[2]}.{rank:02d}", part, offset)


def places() -> list[Path]:
    """Where WordNet may lie: $WNSEARCHDIR, $WNHOME/dict, nltk's data folders (unpacked or zipped), Debian's."""
    found = [Path(os.environ["WNSEARCHDIR"])] if os.environ.get("WNSEARCHDIR") else []
    if os.environ.get("WNHOME"):
        found.append(Path(os.environ["WNHOME"]) / "dict")
    import nltk.data

    for folder in nltk.data.path:
        found += [Path(folder) / "corpora" / "wordnet", Path(folder) / "corpora" / "wordnet.zip"]
    return [*found, DEBIAN]


def available() -> bool:
    """Whether `WordNet.load` would find a database."""
    return any(_has_database(place) for place in places())


def _has_database(place: Path) -> bool:
    return place.is_file() if place.suffix == ".zip" else (place / "data.noun").is_file()


def _read_file(place: Path, name: str) -> bytes:
    return (place / name).read_bytes()


def _read_zipped(place: Path, name: str) -> bytes:
    with zipfile.ZipFile(place) as archive:
        return archive.read(f"wordnet/{name}")


@cache
def _load() -> WordNet:
    for place in places():
        if _has_database(place):
            return WordNet(partial(_read_zipped if place.suffix == ".zip" else _read_file, place))
    raise UserError(ABSENT)
