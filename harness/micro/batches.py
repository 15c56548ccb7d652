"""Training batches: scenes drawn on the fly, several independent questions packed behind each one's visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.micro.families.base import Family, Layout
from harness.micro.prompts import LETTERS, PromptFormat, as_asked
from harness.micro.questions import Question, questions
from harness.micro.scenes import COLORS, DIRECTIONS, IMAGE_SIDE, KINDS, VIDEO_SIDE, Scene, render, sample_scene

IGNORE = -100
SLOW = ("kind", "motion", "yesno")
"""Topics that are learnt last, and asked twice as often for it."""
BARE = "bare"
"""A video and a question without any instruction: the shortest prompt, to begin with."""


class Gaze(NamedTuple):
    """What a token should look at in one layer, shown early in training: the steps of looking an answer up.

    The last word of a question looks at what it asks about, the prompt's last token at that word, then at the option
    that is right. Where the question comes before the video, the prompt's last token first looks back at the word.
    """

    row: int
    layer: int
    position: int
    tokens: list[int]
    topic: str = ""
    """The question's, at the look that settles its answer."""


ASKED_LAYER, EVIDENCE_LAYER, ANSWER_LAYER, OPTION_LAYER = 2, 3, 4, 5


@dataclass
class Batch:
    """One packed batch. B scenes, R rows (R = B, or B x repeats where questions cannot be packed), S tokens a row.

    Attributes:
        pixels: uint8 [B, T, H, W, 3], one picture a segment.
        source: LongTensor [R], the scene of each row.
        input_ids: LongTensor [R, S].
        visual: LongTensor [R, N_v], where the row's visual tokens are.
        positions: LongTensor [3, R, S], M-RoPE; all three the same where a family's positions just count on.
        pack: LongTensor [R, S]: 0 shared prefix, n the n-th question, -1 padding. A token sees its prefix and its pack.
        labels, hints: LongTensor [R, S], next token to be learnt at this position; hints are the auxiliary ones.
        cells: per scene LongTensor [n, 7], what its visual tokens show: token, kind, colour, segment, row, column,
            direction moved (or IGNORE).
        gazes: what tokens should look at.
        evidence: by row, the visual tokens that its questions are about, as positions in the row.
        larger: whether the scenes are shown as Tables 5 and 6 show them.
    """

    pixels: Tensor
    source: Tensor
    input_ids: Tensor
    visual: Tensor
    positions: Tensor
    pack: Tensor
    labels: Tensor
    hints: Tensor
    cells: list[Tensor]
    gazes: list[Gaze]
    evidence: list[list[int]]
    larger: bool


class BatchMaker:
    """Makes batches of one prompt format at a time from scenes of the training split, or the held-out one."""

    def __init__(self, family: Family, tokenizer: Any, seed: int, *, held_out: bool = False) -> None:
        self.family = family
        self.rng = np.random.default_rng(seed)
        self.held_out = held_out
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}
        self._filler, self._eos = tokenizer.pad_token_id, tokenizer.eos_token_id

    def scenes(self, count: int, *, video: bool) -> tuple[list[Scene], Tensor]:
        apart = self.family.few and not video
        scenes = [sample_scene(self.rng, video=video, held_out=self.held_out, apart=apart) for _ in range(count)]
        return scenes, torch.from_numpy(np.stack([render(scene, self.rng) for scene in scenes]))

    def make(self, name: str, scenes: int, per_scene: int, *, larger: bool = False) -> Batch:
        """A batch in the format `name`, `per_scene` questions for each of `scenes` scenes."""
        video = name in self.family.video or name == BARE
        form = self.family.bare if name == BARE else self.family.form(name, larger=larger)
        layout = self.family.layout(video=video, side=VIDEO_SIDE if video else IMAGE_SIDE, larger=larger)
        shown, pixels = self.scenes(scenes, video=video)
        rows: list[_Row] = []
        source: list[int] = []
        for number, scene in enumerate(shown):
            asked = self._choose(scene, name, form, per_scene)
            groups = [[question] for question in asked] if form.question_first else [asked]
            for group in groups:
                rows.append(self._row(name, form, layout, group))
                source.append(number)
        return self._collate(rows, source, shown, pixels, larger)

    def _choose(self, scene: Scene, name: str, form: PromptFormat, count: int) -> list[Question]:
        """`count` questions, topics in turn, the slow ones twice: there are many more of some than of others."""
        by_topic: dict[str, list[Question]] = {}
        for question in questions(scene, self.rng):
            if question.topic == "yesno" and form.options:
                continue
            if name == "Y/N" and question.topic != "yesno":
                continue
            by_topic.setdefault(question.topic, []).append(question)
        order = [list(by_topic)[i] for i in self.rng.permutation(len(by_topic))]
        order = [topic for topic in SLOW if topic in by_topic] + order
        chosen: list[Question] = []
        while len(chosen) < count and order:
            for topic in order:
                if len(chosen) < count and by_topic[topic]:
                    chosen.append(by_topic[topic].pop())
            order = [topic for topic in order if by_topic[topic]]
        return chosen

    def _row(self, name: str, form: PromptFormat, layout: Layout, group: Sequence[Question]) -> _Row:
        row = _Row(layout)
        pending = self.family.head + form.before
        if form.question_first:
            row.text(self.ids(pending), pack=0)
            pending = as_asked(name, group[0].text)
            asked_at = len(row.ids) + len(self.ids(pending)) - 1
        for piece in layout.pieces:
            if isinstance(piece, str):
                pending += piece
                continue
            row.text(self.ids(pending), pack=0)
            row.see(self._pad(layout), piece)
            pending = ""
        row.text(self.ids(pending + form.after), pack=0)
        restart = row.next
        for number, question in enumerate(group, start=1):
            row.next = restart
            answer = question.answer
            if form.question_first:
                tail = self.ids(self.family.tail)
                hints = [self.ids(answer)[0]] * len(tail)
                last = len(row.ids) + len(tail) - 1
                row.gazes.append((ASKED_LAYER, last, [asked_at], ""))
                row.gazes.append((EVIDENCE_LAYER, last, row.look_at(question), question.topic))
                row.asked(tail, self.ids(answer) + [self._eos], hints, number)
                continue
            text = as_asked(name, question.text)
            options: list[str] = []
            hints = []
            content = self.ids(answer)[0]
            if form.options:
                options = question.options(self.rng, form.options)
                answer = LETTERS[options.index(question.answer)]
            full = form.wording(text, options) + self.family.tail
            prompt = self.ids(full)
            # At the question's last word the content of the answer is settled; after the options, so is its letter.
            settled = self._after(full, text.rstrip("?").split()[-1])
            listed, letter = len(prompt), self.ids(answer)[0]
            if form.options:
                listed = self._after(full, options[-1], last=True)
            taught = range(settled, settled + 2 if form.options else len(prompt))
            hints = [content if i in taught else letter if i >= listed else IGNORE for i in range(len(prompt))]
            start, last = len(row.ids), len(row.ids) + len(prompt) - 1
            row.gazes.append((EVIDENCE_LAYER, start + settled, row.look_at(question), question.topic))
            row.gazes.append((ANSWER_LAYER, last, [start + settled], ""))
            if form.options:
                chosen = self._option(full, options, question.answer)
                row.gazes.append((OPTION_LAYER, last, [start + chosen], ""))
            row.asked(prompt, self.ids(answer) + [self._eos], hints, number)
        return row

    def _pad(self, layout: Layout) -> int:
        return self._tokenizer.get_vocab()[layout.pad] if layout.pad else len(self._tokenizer)

    def _after(self, text: str, word: str, *, last: bool = False) -> int:
        """Index of the last token of the first (or last) `word` in the text."""
        at = text.lower().rfind(word) if last else text.lower().find(word)
        return len(self.ids(text[: at + len(word)])) - 1

    def _option(self, text: str, options: Sequence[str], answer: str) -> int:
        """Index of the last token of the right option: where it first stands after all the options before it."""
        at = text.find("\n")
        for option in options[: options.index(answer) + 1]:
            at = text.find(option, at) + len(option)
        return len(self.ids(text[:at])) - 1

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            if len(self._ids) > 200_000:
                self._ids.clear()
            self._ids[text] = self._tokenizer(text, add_special_tokens=False).input_ids if text else []
        return self._ids[text]

    def _collate(self, rows: list[_Row], source: list[int], scenes: list[Scene], pixels: Tensor, larger: bool) -> Batch:
        size = max(len(row.ids) for row in rows)

        def padded(values: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([line + [fill] * (size - len(line)) for line in values])

        return Batch(
            pixels=pixels,
            source=torch.tensor(source),
            input_ids=padded([row.ids for row in rows], self._filler),
            visual=torch.tensor([row.visual for row in rows]),
            positions=torch.stack([padded([row.positions[axis] for row in rows], 0) for axis in range(3)]),
            pack=padded([row.pack for row in rows], -1),
            labels=padded([row.labels for row in rows], IGNORE),
            hints=padded([row.hints for row in rows], IGNORE),
            cells=[sight_table(scene, rows[0].layout) for scene in scenes],
            gazes=[Gaze(number, *gaze) for number, row in enumerate(rows) for gaze in row.gazes],
            evidence=[row.evidence for row in rows],
            larger=larger,
        )


class _Row:
    """One row under construction."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.ids: list[int] = []
        self.pack: list[int] = []
        self.labels: list[int] = []
        self.hints: list[int] = []
        self.positions: tuple[list[int], list[int], list[int]] = ([], [], [])
        self.gazes: list[tuple[int, int, list[int], str]] = []
        self.evidence: list[int] = []
        self.visual: list[int] = []
        self.next = 0

    def text(self, ids: Sequence[int], pack: int) -> None:
        self.ids += ids
        self.pack += [pack] * len(ids)
        self.labels += [IGNORE] * len(ids)
        self.hints += [IGNORE] * len(ids)
        for axis in self.positions:
            axis.extend(range(self.next, self.next + len(ids)))
        self.next += len(ids)

    def see(self, pad: int, count: int) -> None:
        """The next `count` visual tokens of the layout."""
        first = len(self.visual)
        self.visual += range(len(self.ids), len(self.ids) + count)
        start = self.next
        self.text([pad] * count, pack=0)
        if self.layout.places is None:
            return
        places = self.layout.places[first : first + count]
        for axis, column in zip(self.positions, places.T, strict=True):
            axis[-count:] = (start + column).tolist()
        # Text goes on after the longer side, as Hugging Face counts it, also where there are more steps of time.
        self.next = start + int(places[:, 1:].max()) + 1

    def look_at(self, question: Question) -> list[int]:
        """Places in the row of the visual tokens to look at: a move is told from where it ended. Notes the evidence."""
        shown = [self.visual[token] for sight in question.evidence for token in self.layout.shows(sight)]
        self.evidence += shown
        sights = question.evidence[-1:] if question.topic == "motion" else question.evidence
        return [self.visual[token] for sight in sights for token in self.layout.shows(sight)]

    def asked(self, prompt: Sequence[int], answer: Sequence[int], hints: Sequence[int], pack: int) -> None:
        """A question and its answer: the last token of the prompt and all but the last of the answer are taught."""
        start = len(self.ids)
        self.text([*prompt, *answer], pack)
        for offset, wanted in enumerate(answer):
            self.labels[start + len(prompt) - 1 + offset] = wanted
        for offset, wanted in enumerate(hints[:-1]):
            self.hints[start + offset] = wanted


def sight_table(scene: Scene, layout: Layout) -> Tensor:
    """LongTensor [n, 7], one line for each sight and each visual token that shows it best.

    Token, kind, colour, segment, row, column, direction moved since the last sight (IGNORE where it did not).
    """
    colors, ways = list(COLORS), list(DIRECTIONS.values())
    table = []
    for thing in scene.things:
        for number, sight in enumerate(thing.sights):
            moved = IGNORE
            if thing.behaviour == "moves" and number == 1:
                before = thing.sights[0]
                moved = ways.index((int(np.sign(sight.row - before.row)), int(np.sign(sight.col - before.col))))
            about = [KINDS.index(sight.kind), colors.index(sight.color), sight.segment, sight.row, sight.col, moved]
            table += [[token, *about] for token in layout.best(sight)]
    return torch.tensor(table)
