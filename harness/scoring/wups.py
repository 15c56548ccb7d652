"""WUPS of NExT-QA, open-ended: how near an answer's words are to a reference's, by WordNet.

Official: github doc-doc/NExT-OE, eval_oe.py and metrics.py, threshold 0. Differences are listed at `WUPS.words`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from harness.scoring.wordnet import PARTS, WordNet

# The official list, made for NExT-QA: places, directions, numbers and "no" are answers there and stay.
STOP_WORDS = frozenset(
    """
    i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him
    his himself she she's her hers herself it it's its itself they them their theirs themselves what which who
    whom this that that'll these those am is are was were be been being have has had having do does did doing a
    an the and but if or because as until while to from of at for with about into through during again further
    then here there when where why how all any each most other some such only own so than too very s t can will
    just don don't should should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn
    doesn't hadn hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan
    shan't shouldn shouldn't wasn wasn't weren weren't won won't wouldn wouldn't
    """.split()
)
EXACT_TYPES = frozenset({"DC", "DB"})
"""Counts and yes/no questions: the words must be the same. A full stop is a word, officially too: `No.` is not `no`."""


class WUPS:
    """The metric over one WordNet."""

    def __init__(self, wordnet: WordNet) -> None:
        from nltk.stem import PorterStemmer
        from nltk.tokenize import NLTKWordTokenizer

        self.wordnet = wordnet
        self._tokenize = NLTKWordTokenizer().tokenize
        self._stem = PorterStemmer().stem
        self._lemma = cache(self._read_lemma)

    @classmethod
    def load(cls) -> WUPS:
        """With the WordNet of this machine. Raises UserError, saying how to get it, when there is none."""
        return cls(WordNet.load())

    def score(self, reply: str, references: Iterable[str], question_type: str) -> float:
        """WUPS in [0, 1]: the best over the references; 1 or 0 for the types in EXACT_TYPES."""
        words = self.words(reply)
        each = [self.words(reference) for reference in references]
        if question_type in EXACT_TYPES:
            return float(words in each)
        return max(min(self.one_way(words, other), self.one_way(other, words)) for other in each)

    def words(self, text: str) -> list[str]:
        """The base forms of the words of `text`, without stop words.

        Official: pywsd's lemmatize_sentence, which tags parts of speech. Here, as a tagger's model is a download of
        its own, a word counts as the part of speech under which WordNet's tagged texts have its base form most often
        (nouns before verbs, adjectives, adverbs on a tie), and a text is one sentence. Tokens (Penn Treebank) and what
        happens to words that WordNet lacks (Porter stem if that is a word, else unchanged) are as in pywsd. Answer and
        reference are treated alike, so the same word still meets itself.
        """
        return [lemma for token in self._tokenize(text) if (lemma := self._lemma(token.lower())) not in STOP_WORDS]

    def one_way(self, words: Sequence[str], others: Sequence[str]) -> float:
        """Product over `words` of the best similarity to one of `others`; words similar to none are left out."""
        product, any_word = 1.0, False
        for word in words:
            best = max((self.similarity(word, other) for other in others), default=0.0)
            if best > 0:
                product, any_word = product * best, True
        return product if any_word else 0.0

    def similarity(self, word: str, other: str) -> float:
        """1 for the same word, else Wu-Palmer similarity of the first senses, 0 where one has none."""
        if word == other:
            return 1.0
        one, two = self.wordnet.first_sense(word), self.wordnet.first_sense(other)
        return 0.0 if one is None or two is None else self.wordnet.similarity(one, two)

    def _read_lemma(self, token: str) -> str:
        forms = [(self.wordnet.base_forms(token, part), part) for part in PARTS]
        # nltk's lemmatizer takes the shortest of several base forms.
        candidates = [(min(found, key=len), part) for found, part in forms if found]
        if candidates:
            return max(candidates, key=lambda candidate: self.wordnet.count(*candidate))[0]
        stem = self._stem(token)
        return stem if self.wordnet.first_sense(stem) is not None else token
