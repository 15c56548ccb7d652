"""WUPS on the real WordNet, against values worked out by hand from its hypernym chains."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nltk.data
import pandas as pd
import pytest

import harness.scoring.wordnet
from harness.benchmarks import open_benchmark
from harness.scoring import score
from harness.scoring.wordnet import WordNet, available, places
from harness.scoring.wups import STOP_WORDS, WUPS
from model_wrappers.errors import UserError
from tests.benchmarks import layouts

needs_wordnet = pytest.mark.skipif(
    not available(), reason="WordNet is not on this machine (apt-get install wordnet-base); WUPS cannot be computed"
)


@pytest.fixture(scope="module")
def wups() -> WUPS:
    return WUPS.load()


# d nodes from the root to the nearest common ancestor, a and b the steps up to it: 2d / (a + b + 2d).
# chair, sofa > seat > furniture > furnishing > instrumentality > artifact > whole > object > physical entity > entity:
# d = 9, a = b = 1.
# dog > canine > carnivore, cat > feline > carnivore: a = b = 2; d = 12, by carnivore > placental > mammal > vertebrate
# > chordate > animal > organism > living thing > whole > object > physical entity > entity.
# red > chromatic colour > colour > visual property > property > attribute > abstraction > entity: with chair, which is
# nine steps below entity, only entity in common: d = 1, a = 7, b = 9.
# Adjectives hang under a made-up root: d = 1, a = b = 1; a noun across parts of speech too: smile > facial expression
# > gesture > visual communication > communication > abstraction > entity > made-up root, a = 7.
@needs_wordnet
@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("chair", "sofa", 18 / 20),
        ("dog", "cat", 24 / 28),
        ("dog", "dog", 1.0),
        ("red", "chair", 2 / (7 + 9 + 2)),
        ("happy", "sad", 2 / 4),
        ("smile", "happy", 2 / (7 + 1 + 2)),
        ("qwertyish", "dog", 0.0),
        ("qwertyish", "qwertyish", 1.0),
    ],
)
def test_similarity_of_words(one: str, other: str, value: float, wups: WUPS) -> None:
    assert wups.similarity(one, other) == pytest.approx(value, abs=1e-12)
    assert wups.similarity(other, one) == pytest.approx(value, abs=1e-12)


@needs_wordnet
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cats are sitting on the sofas", ["cat", "sit", "on", "sofa"]),
        ("he was smiling", ["smile"]),
        ("lost his balance", ["lose", "hi", "balance"]),  # once it is `hi`, `his` is no stop word: officially so
        ("went to the shops", ["go", "shop"]),
        ("FEET", ["foot"]),
        ("the baby's toy", ["baby", "'s", "toy"]),
        ("No.", ["no", "."]),
        ("xyzzy", ["xyzzy"]),
        ("", []),
        ("to the of", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str], wups: WUPS) -> None:
    assert wups.words(text) == words


@needs_wordnet
@pytest.mark.parametrize(
    ("reply", "references", "kind", "value"),
    [
        ("sit on the sofa", ["sits on a sofa"], "CW", 1.0),
        ("red chair", ["red sofa"], "DO", 0.9),
        ("chair", ["red sofa"], "DO", 0.9 * 2 / 18),  # the nearer direction is 0.9, the other also asks for `red`
        ("the cat", ["two chairs", "dogs"], "DL", 24 / 28),  # the better of two references
        ("qwertyish", ["dog"], "DO", 0.0),
        ("qwertyish cat", ["dog"], "DO", 24 / 28),  # a word near to nothing is left out, not counted as 0
        ("", ["dog"], "DO", 0.0),
        ("two", ["two"], "DC", 1.0),
        ("two", ["three"], "DC", 0.0),
        ("two dogs", ["two"], "DC", 0.0),
        ("yes", ["no", "yes"], "DB", 1.0),
        ("No.", ["no"], "DB", 0.0),
    ],
)
def test_score_of_an_answer(reply: str, references: list[str], kind: str, value: float, wups: WUPS) -> None:
    assert wups.score(reply, references, kind) == pytest.approx(value, abs=1e-12)


@needs_wordnet
def test_next_oe_by_group(tmp_path: Path) -> None:
    rows = [
        layouts.oe_row(0, "a red sofa", "CW"),
        layouts.oe_row(1, "dog", "TP"),
        layouts.oe_row(2, "dog", "TN"),
        layouts.oe_row(3, "two", "DC"),
    ]
    layouts.next_oe(tmp_path, rows, {"4000": {"0": "chair", "2": "cats"}})
    benchmark = open_benchmark("NExT-QA-OE", tmp_path, 8)
    replies: dict[int | str, str | None] = {0: "chairs", 1: "cat", 2: "cat", 3: "three"}
    got = score(benchmark, replies, judge="official")
    each = [1.0, 24 / 28, 1.0, 0.0]
    assert list(got.per_sample.values()) == pytest.approx(each)
    assert got.headline == pytest.approx(25 * sum(each)) and got.note == "WUPS, threshold 0"
    temporal = 50 * (24 / 28 + 1)
    assert got.by_group == pytest.approx({"CW": 100, "C": 100, "TN": temporal, "T": temporal, "DC": 0, "D": 0})
    table = tmp_path / "kit.tsv"
    pd.DataFrame({"index": [0, 1, 2, 3], "prediction": list(replies.values())}).to_csv(table, sep="\t", index=False)
    assert benchmark.dataset.evaluate(str(table)) == pytest.approx({"overall": got.headline, **got.by_group})


@needs_wordnet
def test_nltks_zipped_copy_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wups: WUPS) -> None:
    here = next(place for place in places() if harness.scoring.wordnet._has_database(place))
    (tmp_path / "corpora").mkdir()
    with zipfile.ZipFile(tmp_path / "corpora" / "wordnet.zip", "w") as archive:
        for part in ("noun", "verb", "adj", "adv"):
            for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
                archive.writestr(f"wordnet/{name}", _bytes(here, name))
        archive.writestr("wordnet/cntlist.rev", _bytes(here, "cntlist.rev"))
    monkeypatch.setattr(harness.scoring.wordnet, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.delenv("WNHOME", raising=False)
    assert available()
    zipped = WUPS(harness.scoring.wordnet._load.__wrapped__())
    assert zipped.score("red chair", ["red sofa"], "DO") == wups.score("red chair", ["red sofa"], "DO")


def _bytes(place: Path, name: str) -> bytes:
    read = harness.scoring.wordnet._read_zipped if place.suffix == ".zip" else harness.scoring.wordnet._read_file
    return read(place, name)


def test_without_wordnet_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.scoring.wordnet, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(harness.scoring.wordnet, "_load", harness.scoring.wordnet._load.__wrapped__)
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.delenv("WNHOME", raising=False)
    layouts.next_oe(tmp_path)
    benchmark = open_benchmark("NExT-QA-OE", tmp_path, 8)
    with pytest.raises(UserError, match="apt-get install wordnet-base.*nltk.downloader wordnet") as error:
        score(benchmark, {0: "a sofa"}, judge="official")
    assert "\n" not in str(error.value)
    assert score(benchmark, {0: "jump onto the sofa"}).headline == 100.0  # exact match needs no WordNet
    with pytest.raises(UserError):
        WordNet.load()


def test_the_stop_words_keep_what_answers_are_made_of() -> None:
    assert len(STOP_WORDS) == 156
    assert not {"on", "in", "up", "under", "no", "not", "two", "before", "after"} & STOP_WORDS
