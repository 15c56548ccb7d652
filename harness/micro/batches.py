"""Training batches: scenes drawn on the fly, several independent questions packed behind each one's visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from harness.micro.prompts import IMAGE_FORMATS, LETTERS, VIDEO_FORMATS, PromptFormat, as_asked
from harness.micro.questions import Question, questions
from harness.micro.scenes import CELL, COLORS, DIRECTIONS, KINDS, Scene, render, sample_scene
from harness.micro.tokenizer import HEAD, TAIL

IGNORE = -100
SLOW = ("kind", "motion", "yesno")
"""Topics that are learnt last, and asked twice as often for it."""
BARE = "bare"
"""A video and a question without any instruction: the shortest prompt, to begin with."""
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
"""CLIP's, as Qwen2-VL's processors use."""


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
        visual: LongTensor [R], where the row's visual tokens start.
        positions: LongTensor [3, R, S], M-RoPE.
        pack: LongTensor [R, S]: 0 shared prefix, n the n-th question, -1 padding. A token sees its prefix and its pack.
        labels, hints: LongTensor [R, S], next token to be learnt at this position; hints are the auxiliary ones.
        cells: per scene LongTensor [sights, 7]: token, kind, colour, segment, row, column, direction moved (or IGNORE).
        gazes: what tokens should look at.
        evidence: by row, the visual tokens that its questions are about, as positions in the row.
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

    @property
    def n_visual(self) -> int:
        """Visual tokens of each scene."""
        return self.pixels.shape[1] * (self.pixels.shape[2] // CELL) * (self.pixels.shape[3] // CELL)


class BatchMaker:
    """Makes batches of one prompt format at a time from scenes of the training split, or the held-out one."""

    def __init__(self, tokenizer: Qwen2Tokenizer, seed: int, *, held_out: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.held_out = held_out
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}

        def token(piece: str) -> int:
            return tokenizer.get_vocab()[piece]

        self._start, self._end = token("<|vision_start|>"), token("<|vision_end|>")
        self._pad = {True: token("<|video_pad|>"), False: token("<|image_pad|>")}
        self._filler, self._eos = token("<|endoftext|>"), token("<|im_end|>")

    def scenes(self, count: int, *, video: bool) -> tuple[list[Scene], Tensor]:
        scenes = [sample_scene(self.rng, video=video, held_out=self.held_out) for _ in range(count)]
        return scenes, torch.from_numpy(np.stack([render(scene, self.rng) for scene in scenes]))

    def make(self, name: str, scenes: int, per_scene: int) -> Batch:
        """A batch in the format `name`, `per_scene` questions for each of `scenes` scenes."""
        video = name in VIDEO_FORMATS or name == BARE
        form = self._form(name)
        shown, pixels = self.scenes(scenes, video=video)
        rows: list[_Row] = []
        source: list[int] = []
        for number, scene in enumerate(shown):
            asked = self._choose(scene, name, per_scene)
            groups = [[question] for question in asked] if form.question_first else [asked]
            for group in groups:
                rows.append(self._row(name, form, scene, group, video))
                source.append(number)
        return self._collate(rows, source, shown, pixels)

    @staticmethod
    def _form(name: str) -> PromptFormat:
        return IMAGE_FORMATS["VQA"] if name == BARE else {**VIDEO_FORMATS, **IMAGE_FORMATS}[name]

    def _choose(self, scene: Scene, name: str, count: int) -> list[Question]:
        """`count` questions, topics in turn, the slow ones twice: there are many more of some than of others."""
        by_topic: dict[str, list[Question]] = {}
        for question in questions(scene, self.rng):
            if question.topic == "yesno" and self._form(name).options:
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

    def _row(self, name: str, form: PromptFormat, scene: Scene, group: Sequence[Question], video: bool) -> _Row:
        row = _Row()
        row.text(self.ids(HEAD + form.before), pack=0)
        if form.question_first:
            row.text(self.ids(as_asked(name, group[0].text)), pack=0)
        row.text([self._start], pack=0)
        row.grid(self._pad[video], scene.segments, scene.side)
        row.text([self._end, *self.ids(form.after)], pack=0)
        restart = row.next
        for number, question in enumerate(group, start=1):
            row.next = restart
            answer = question.answer
            if form.question_first:
                tail = self.ids(TAIL)
                hints = [self.ids(answer)[0]] * len(tail)
                last = len(row.ids) + len(tail) - 1
                row.gazes.append((ASKED_LAYER, last, [row.visual - 2], ""))
                row.gazes.append((EVIDENCE_LAYER, last, row.look_at(question, scene), question.topic))
                row.asked(tail, self.ids(answer) + [self._eos], hints, number)
                continue
            text = as_asked(name, question.text)
            options: list[str] = []
            hints = []
            content = self.ids(answer)[0]
            if form.options:
                options = question.options(self.rng, form.options)
                answer = LETTERS[options.index(question.answer)]
            full = form.wording(text, options) + TAIL
            prompt = self.ids(full)
            # At the question's last word the content of the answer is settled; after the options, so is its letter.
            settled = self._after(full, text.rstrip("?").split()[-1])
            listed, letter = len(prompt), self.ids(answer)[0]
            if form.options:
                listed = self._after(full, options[-1], last=True)
            taught = range(settled, settled + 2 if form.options else len(prompt))
            hints = [content if i in taught else letter if i >= listed else IGNORE for i in range(len(prompt))]
            start, last = len(row.ids), len(row.ids) + len(prompt) - 1
            row.gazes.append((EVIDENCE_LAYER, start + settled, row.look_at(question, scene), question.topic))
            row.gazes.append((ANSWER_LAYER, last, [start + settled], ""))
            if form.options:
                chosen = self._option(full, options, question.answer)
                row.gazes.append((OPTION_LAYER, last, [start + chosen], ""))
            row.asked(prompt, self.ids(answer) + [self._eos], hints, number)
        return row

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
            self._ids[text] = self._tokenizer(text).input_ids if text else []
        return self._ids[text]

    def _collate(self, rows: list[_Row], source: list[int], scenes: list[Scene], pixels: Tensor) -> Batch:
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
            cells=[sight_table(scene) for scene in scenes],
            gazes=[Gaze(number, *gaze) for number, row in enumerate(rows) for gaze in row.gazes],
            evidence=[row.evidence for row in rows],
        )


class _Row:
    """One row under construction."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.pack: list[int] = []
        self.labels: list[int] = []
        self.hints: list[int] = []
        self.positions: tuple[list[int], list[int], list[int]] = ([], [], [])
        self.gazes: list[tuple[int, int, list[int], str]] = []
        self.evidence: list[int] = []
        self.visual = 0
        self.next = 0

    def text(self, ids: Sequence[int], pack: int) -> None:
        self.ids += ids
        self.pack += [pack] * len(ids)
        self.labels += [IGNORE] * len(ids)
        self.hints += [IGNORE] * len(ids)
        for axis in self.positions:
            axis.extend(range(self.next, self.next + len(ids)))
        self.next += len(ids)

    def grid(self, pad: int, segments: int, side: int) -> None:
        self.visual = len(self.ids)
        count = segments * side * side
        self.ids += [pad] * count
        self.pack += [0] * count
        self.labels += [IGNORE] * count
        self.hints += [IGNORE] * count
        for segment in range(segments):
            for row in range(side):
                for col in range(side):
                    for axis, value in zip(self.positions, (segment, row, col), strict=True):
                        axis.append(self.next + value)
        self.next += max(segments, side)

    def look_at(self, question: Question, scene: Scene) -> list[int]:
        """Places in the row of the visual tokens to look at: a move is told from where it ended. Notes the evidence."""
        side = scene.side
        places = [self.visual + (s.segment * side + s.row) * side + s.col for s in question.evidence]
        self.evidence += places
        return places[-1:] if question.topic == "motion" else places

    def asked(self, prompt: Sequence[int], answer: Sequence[int], hints: Sequence[int], pack: int) -> None:
        """A question and its answer: the last token of the prompt and all but the last of the answer are taught."""
        start = len(self.ids)
        self.text([*prompt, *answer], pack)
        for offset, wanted in enumerate(answer):
            self.labels[start + len(prompt) - 1 + offset] = wanted
        for offset, wanted in enumerate(hints[:-1]):
            self.hints[start + offset] = wanted


def sight_table(scene: Scene) -> Tensor:
    """LongTensor [sights, 7]: token, kind, colour, segment, row, column, direction moved since the last sight."""
    colors, ways = list(COLORS), list(DIRECTIONS.values())
    table = []
    for thing in scene.things:
        for number, sight in enumerate(thing.sights):
            moved = IGNORE
            if thing.behaviour == "moves" and number == 1:
                before = thing.sights[0]
                moved = ways.index((int(np.sign(sight.row - before.row)), int(np.sign(sight.col - before.col))))
            token = (sight.segment * scene.side + sight.row) * scene.side + sight.col
            table.append(
                [token, KINDS.index(sight.kind), colors.index(sight.color), sight.segment, sight.row, sight.col, moved]
            )
    return torch.tensor(table)


def patches(pixels: Tensor, noise: torch.Generator | None = None) -> Tensor:
    """What the processor makes of the pictures, each shown in two frames: float [B * T * h * w * 4, 3 * 2 * 14 * 14].

    Args:
        pixels: uint8 [B, T, H, W, 3].
        noise: if given, a little Gaussian noise and a video codec's coarse colour are added, anew in each frame.
    """
    batch, segments, height, width, _ = pixels.shape
    x = pixels.float().div(255).permute(0, 1, 4, 2, 3)[:, :, None].expand(-1, -1, 2, -1, -1, -1)
    if noise is not None:
        gray = x.mean(3, keepdim=True)
        tint = torch.nn.functional.avg_pool2d((x - gray).flatten(0, 2), 2)
        tint = torch.nn.functional.interpolate(tint, scale_factor=2).view_as(x)
        share = torch.rand(batch, 1, 1, 1, 1, 1, generator=noise)
        x = gray + share * tint + (1 - share) * (x - gray)
        x = x + 0.03 * torch.randn(x.shape, generator=noise)
    x = (x - MEAN[:, None, None]) / STD[:, None, None]
    x = x.view(batch, segments, 2, 3, height // 28, 2, 14, width // 28, 2, 14)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * 14 * 14)
