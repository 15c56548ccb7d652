"""Training of a micro model on a CPU: vision alone, all together, larger inputs, missing visual tokens.

Larger inputs are those of Tables 5 and 6. At the end visual tokens are missing: a cut alone must not confuse the model,
only what it cuts away. Every answer is taught, and early on also each step of looking it up: what a visual token shows
and where it is, where each word should look, what is known at a question's last word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from harness.micro.batches import BARE, IGNORE, Batch, BatchMaker, Gaze, sight_table
from harness.micro.families import Family
from harness.micro.forward import decode_text, sees
from harness.micro.resume import Resume
from harness.micro.scenes import COLORS, DIRECTIONS, IMAGE_SIDE, KINDS, SEGMENTS

PACKED: dict[str, tuple[int, int]] = {
    BARE: (8, 12),
    "Video-MME": (8, 8),
    "MVBench": (8, 8),
    "MMBench-Video": (8, 4),
    "NExT-QA-MC": (8, 8),
    "NExT-QA-OE": (8, 12),
    "ActivityNet-QA": (8, 12),
    "MCQ": (8, 8),
    "Y/N": (8, 8),
    "VQA": (8, 12),
}
"""Format: (scenes, questions a scene) of a joint batch."""
VIDEO_MIX = {
    BARE: 0.2,
    "Video-MME": 1.0,
    "MVBench": 1.0,
    "MMBench-Video": 1.6,
    "NExT-QA-MC": 1.0,
    "NExT-QA-OE": 0.7,
    "ActivityNet-QA": 0.7,
}
"""How often each format is asked; Qwen2-VL's MMBench-Video asks first and shows then, which takes longest to learn."""


@dataclass(frozen=True)
class Schedule:
    """Steps, peak learning rates and formats of the four parts.

    Attributes:
        mix: format -> how often it is asked.
        vision: steps on vision alone.
        joint: steps on everything; in the first `short` of them only open questions in few words, in the first `shown`
            with words shown where to look.
        larger_images: steps on larger images alone.
        larger: steps that mostly show longer videos and larger images.
        missing: steps with visual tokens missing, half of them larger, too.
        rate, larger_rate, missing_rate: of Adam at the top of the cosine.
    """

    vision: int
    joint: int
    larger_images: int
    larger: int
    missing: int
    mix: Mapping[str, float]
    rate: float = 2e-3
    larger_rate: float = 8e-4
    missing_rate: float = 6e-4
    short: float = 0.14
    shown: float = 0.5


FROM_NOTHING = Schedule(80, 5200, 200, 600, 700, {**VIDEO_MIX, "MCQ": 0.8, "Y/N": 0.3, "VQA": 0.6})
GROWN = Schedule(150, 1600, 200, 900, 700, {**VIDEO_MIX, "MCQ": 1.2, "Y/N": 0.6, "VQA": 1.0}, rate=1.5e-3, short=0.1)
"""Where the language model was trained before, under another tower."""


class Probes(nn.Module):
    """Linear readouts that teach early layers where a visual token is and where its thing came from. Thrown away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, SEGMENTS + 2 * IMAGE_SIDE)
        self.moved = nn.Linear(width, len(DIRECTIONS))

    def loss(self, taps: list[Tensor], batch: Batch) -> Tensor:
        """After two layers: segment, row and column of every sight. After three: which way a moved thing moved."""
        first_row = {scene: row for row, scene in reversed(list(enumerate(batch.source.tolist())))}
        rows = torch.cat([torch.full((len(c),), first_row[i]) for i, c in enumerate(batch.cells)])
        cells = torch.cat(batch.cells)
        at = batch.visual[rows, cells[:, 0]]
        place = self.place(taps[1][rows, at]).float()
        segment, row, col = place.split([SEGMENTS, IMAGE_SIDE, IMAGE_SIDE], dim=-1)
        loss = sum(F.cross_entropy(part, cells[:, 3 + i]) for i, part in enumerate((segment, row, col)))
        assert isinstance(loss, Tensor)
        moved = cells[:, 6]
        if (moved != IGNORE).any():
            loss = loss + F.cross_entropy(self.moved(taps[2][rows, at]).float(), moved, ignore_index=IGNORE)
        return loss


class Words:
    """Token ids of the words for kinds and colours, as they stand inside a question (with a space before)."""

    def __init__(self, tokenizer: Any) -> None:
        self.kinds = torch.tensor([tokenizer.get_vocab()[f"\u0120{kind}"] for kind in KINDS])
        self.colors = torch.tensor([tokenizer.get_vocab()[f"\u0120{color}"] for color in COLORS])

    def loss(self, embeddings: Tensor, visual: Tensor, cells: list[Tensor]) -> Tensor:
        """Every sight's visual token must point to the words for its kind and colour; visual float [B, N, d]."""
        tokens = torch.cat([visual[i, c[:, 0]] for i, c in enumerate(cells)]).float()
        table = torch.cat(cells)
        scale = 6.0 / tokens.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        total = tokens.new_zeros(())
        for words, column in ((self.kinds, 1), (self.colors, 2)):
            vectors = F.normalize(embeddings[words].float(), dim=-1)
            total = total + F.cross_entropy(tokens * scale @ vectors.T * 3.0, table[:, column])
        return total


def gaze_loss(attentions: list[Tensor], gazes: list[Gaze]) -> Tensor:
    """Minus the log of the attention that the first two heads of its layer give to what each gaze should be at."""
    losses = []
    for layer in sorted({gaze.layer for gaze in gazes}):
        here = [gaze for gaze in gazes if gaze.layer == layer]
        rows = torch.tensor([gaze.row for gaze in here for _ in gaze.tokens])
        positions = torch.tensor([gaze.position for gaze in here for _ in gaze.tokens])
        columns = torch.tensor([token for gaze in here for token in gaze.tokens])
        owner = torch.tensor([number for number, gaze in enumerate(here) for _ in gaze.tokens])
        given = attentions[layer][rows, :2, positions, columns].float()
        mass = torch.zeros(len(here), 2).index_add(0, owner, given)
        losses.append(-(mass.clamp_min(1e-6).log()).mean())
    return torch.stack(losses).sum()


@dataclass
class Losses:
    answers: Tensor
    hints: Tensor
    words: Tensor
    probes: Tensor
    gazes: Tensor
    right: dict[str, float]

    def numbers(self) -> dict[str, float]:
        """Each loss as a plain number."""
        return {name: value.item() for name, value in vars(self).items() if isinstance(value, Tensor)}


class Trainer:
    """Owns the model, its optimiser and its sources of batches."""

    def __init__(self, family: Family, model: Any, tokenizer: Any, seed: int) -> None:
        self.family, self.model, self.seed = family, model, seed
        self.maker = BatchMaker(family, tokenizer, seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.words = Words(tokenizer)
        self.probes = Probes(model.lm_head.in_features)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that is trained, by name."""
        return {"model": self.model, "probes": self.probes}

    def encode(self, pixels: Tensor, *, noisy: bool = True, larger: bool = False) -> Tensor:
        """Visual tokens float [B, N_v, d] of pictures uint8 [B, T, H, W, 3]."""
        video, noise = pixels.shape[1] > 1, self.noise if noisy else None
        return self.family.encode(self.model, pixels, video=video, noise=noise, larger=larger)

    def batch(self, name: str, share: float) -> Batch:
        """A batch of one format, in a `share` of cases a larger one: half as many scenes then."""
        larger = bool(torch.rand((), generator=self.noise) < share)
        if self.family.few and name in self.family.image:
            larger = False
        scenes, per_scene = PACKED[name]
        return self.maker.make(name, scenes // 2 if larger else scenes, per_scene, larger=larger)

    def missing(self, batch: Batch) -> Tensor:
        """bool [R, S]: visual tokens to leave out, a random share in each row, none that its questions are about."""
        rows, size = batch.input_ids.shape
        visual = torch.zeros(rows, size, dtype=torch.bool).scatter(1, batch.visual, True)
        share = torch.rand(rows, 1, generator=self.noise).mul(1.4).clamp(max=1.0)  # sometimes all are left out
        gone = visual & (torch.rand(rows, size, generator=self.noise) < share)
        for row, evidence in enumerate(batch.evidence):
            gone[row, evidence] = False
        return gone

    def forward(
        self, batch: Batch, *, noisy: bool = True, missing: Tensor | None = None, dropout: float = 0.0
    ) -> Losses:
        """The losses of one batch; `missing` (bool [R, S]) tokens are seen by none but themselves."""
        embeddings = self.model.model.language_model.embed_tokens
        visual = self.encode(batch.pixels, noisy=noisy, larger=batch.larger)
        # A placeholder may be no token of the vocabulary; all of them are overwritten.
        embeds = embeddings(batch.input_ids.scatter(1, batch.visual, 0))
        places = batch.visual[..., None].expand(-1, -1, embeds.shape[-1])
        embeds = embeds.scatter(1, places, visual[batch.source].to(embeds.dtype))
        mask = sees(batch.pack)
        if missing is not None:
            mask &= ~missing[:, None] | torch.eye(missing.shape[1], dtype=torch.bool)
        hidden, taps, attentions = decode_text(self.model, embeds, batch.positions, mask, dropout)
        taught, hinted = batch.labels != IGNORE, batch.hints != IGNORE
        logits = self.model.lm_head(hidden[taught]).float()
        wanted = batch.labels[taught]
        return Losses(
            answers=F.cross_entropy(logits, wanted),
            hints=F.cross_entropy(self.model.lm_head(hidden[hinted]).float(), batch.hints[hinted]),
            words=self.words.loss(embeddings.weight, visual, batch.cells),
            probes=self.probes.loss(taps, batch),
            gazes=gaze_loss(attentions, batch.gazes),
            right=self._right(hidden, batch),
        )

    @torch.no_grad()
    def _right(self, hidden: Tensor, batch: Batch) -> dict[str, float]:
        """Share of questions, by topic, whose answer is known at their last word; of first answer tokens ('final')."""
        settling = [gaze for gaze in batch.gazes if gaze.topic]
        rows, at = torch.tensor([(gaze.row, gaze.position) for gaze in settling]).T
        wanted = torch.where(batch.hints[rows, at] == IGNORE, batch.labels[rows, at], batch.hints[rows, at])
        known = (self.model.lm_head(hidden[rows, at]).argmax(-1) == wanted).tolist()
        shares = {}
        for topic in {gaze.topic for gaze in settling}:
            marks = [mark for mark, gaze in zip(known, settling, strict=True) if gaze.topic == topic]
            shares[topic] = sum(marks) / len(marks)
        first = (batch.labels != IGNORE) & (batch.labels.roll(1, 1) == IGNORE)
        shares["final"] = (self.model.lm_head(hidden[first]).argmax(-1) == batch.labels[first]).float().mean().item()
        return shares

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.model.parameters()
        yield from self.probes.parameters()


SHORT = {BARE: 0.5, "VQA": 0.5}
"""What the first part of the joint training is made of: open questions, asked in the fewest words."""


def train(
    family: Family,
    model: Any,
    tokenizer: Any,
    schedule: Schedule,
    *,
    seed: int,
    resume: Resume | None = None,
) -> list[dict[str, float]]:
    """Trains in place by the schedule.

    Args:
        resume: where the state is kept every SAVE_EVERY steps, and taken up from if it is there.

    Returns:
        The losses at every REPORT_EVERY-th step of the second part.
    """
    trainer = Trainer(family, model, tokenizer, seed)
    model.train()
    try:
        with torch.enable_grad():
            start = resume.step(steps=schedule.joint, seed=seed) if resume else 0
            if not start:
                _vision(trainer, schedule.vision, schedule.rate)
            history = _joint(trainer, schedule, start, resume)
            _larger(trainer, schedule)
            _missing(trainer, schedule)
            return history
    finally:
        model.eval()


REPORT_EVERY, SAVE_EVERY = 25, 250


def _optimiser(trainer: Trainer, lr: float) -> torch.optim.AdamW:
    decayed = [p for p in trainer.parameters() if p.ndim > 1]
    plain = [p for p in trainer.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def _vision(trainer: Trainer, steps: int, rate: float, *, larger: bool = False) -> None:
    """Every visual token names the kind and colour under it, in the language model's own word vectors.

    Args:
        larger: two images in three steps are larger ones.
    """
    optimiser = _optimiser(trainer, rate)
    bar = tqdm(range(steps), desc="larger images" if larger else "vision", unit="step")
    for step in bar:
        _set_rate(optimiser, step / steps, rate)
        large = larger and step % 3 != 0
        scenes, pixels = trainer.maker.scenes(8 if large else 24, video=not large and step % 3 != 0)
        with torch.autocast("cpu", torch.bfloat16):
            visual = trainer.encode(pixels, larger=large)
            embeddings = trainer.model.get_input_embeddings().weight
            assert isinstance(embeddings, Tensor)
            layout = trainer.family.layout(video=scenes[0].segments > 1, side=scenes[0].side, larger=large)
            loss = trainer.words.loss(embeddings, visual, [sight_table(scene, layout) for scene in scenes])
        _step(trainer, optimiser, loss)
        bar.set_postfix(loss=f"{loss.item():.3f}")


def _joint(trainer: Trainer, schedule: Schedule, start: int, resume: Resume | None) -> list[dict[str, float]]:
    optimiser, steps = _optimiser(trainer, schedule.rate), schedule.joint
    generator = torch.Generator().manual_seed(trainer.maker.rng.integers(2**31).item())
    streams = {"noise": trainer.noise, "formats": generator}
    if resume and start:
        resume.load(trainer.modules, optimiser, streams, trainer.maker.rng)
    names, weights = list(schedule.mix), torch.tensor(list(schedule.mix.values()))
    seen: dict[str, float] = {}
    history = []
    bar = tqdm(range(start, steps), desc="all together", unit="step", initial=start, total=steps)
    for step in bar:
        if resume and step % SAVE_EVERY == 0 and step > start:
            resume.save(step, trainer.modules, optimiser, streams, trainer.maker.rng, steps=steps, seed=trainer.seed)
        done = step / steps
        _set_rate(optimiser, done, schedule.rate)
        # Open questions first: what is looked up must be right before its letter can be.
        chance = torch.tensor([SHORT.get(name, 0.0) for name in names]) if done < schedule.short else weights
        name = names[int(torch.multinomial(chance, 1, generator=generator))]
        batch = trainer.maker.make(name, *PACKED[name])
        with torch.autocast("cpu", torch.bfloat16):
            losses = trainer.forward(batch)
        aid = 0.5 if done < schedule.shown else 0.25
        shown = 0.5 if done < schedule.shown else 0.0
        total = losses.answers + aid * (losses.hints + losses.words + 2 * losses.probes) + shown * losses.gazes
        _step(trainer, optimiser, total)
        for topic, share in losses.right.items():
            key = name if topic == "final" else topic
            seen[key] = 0.9 * seen.get(key, share) + 0.1 * share
        if step % REPORT_EVERY == 0:
            history.append(losses.numbers())
            shares = "  ".join(f"{key} {value:.2f}" for key, value in seen.items())
            bar.write(f"{step:5d}  answers {losses.answers.item():.3f}  hints {losses.hints.item():.3f} | {shares}")
    return history


def _larger(trainer: Trainer, schedule: Schedule) -> None:
    """Everything again, most of it on larger inputs, with words shown where to look."""
    if not trainer.family.few:
        _vision(trainer, schedule.larger_images, schedule.larger_rate, larger=True)
    for losses, optimiser in _batches(trainer, schedule, "larger", schedule.larger, schedule.larger_rate):
        _step(trainer, optimiser, losses.answers + 0.25 * (losses.hints + losses.words + losses.gazes))


def _missing(trainer: Trainer, schedule: Schedule) -> None:
    """Answers with many visual tokens and a tenth of all attention gone."""
    steps, rate = schedule.missing, schedule.missing_rate
    for losses, optimiser in _batches(trainer, schedule, "tokens missing", steps, rate, without=True):
        _step(trainer, optimiser, losses.answers + 0.25 * losses.hints + 0.1 * losses.words)


def _batches(
    trainer: Trainer, schedule: Schedule, part: str, steps: int, rate: float, *, without: bool = False
) -> Iterator[tuple[Losses, torch.optim.AdamW]]:
    """The losses of one part's batches (`without` some visual tokens), and the optimiser that is to take the step."""
    optimiser = _optimiser(trainer, rate)
    names, weights = list(schedule.mix), torch.tensor(list(schedule.mix.values()))
    bar = tqdm(range(steps), desc=part, unit="step")
    seen: dict[str, float] = {}
    for step in bar:
        _set_rate(optimiser, step / steps, rate)
        name = names[int(torch.multinomial(weights, 1, generator=trainer.noise))]
        batch = trainer.batch(name, 0.5 if without else 0.7)
        missing, dropout = (trainer.missing(batch), 0.1) if without else (None, 0.0)
        with torch.autocast("cpu", torch.bfloat16):
            losses = trainer.forward(batch, missing=missing, dropout=dropout)
        yield losses, optimiser
        key, share = f"{name}{' larger' if batch.larger else ''}", losses.right["final"]
        seen[key] = 0.9 * seen.get(key, share) + 0.1 * share
        if step % REPORT_EVERY == 0:
            bar.write(f"{step:5d}  " + "  ".join(f"{key} {share:.2f}" for key, share in sorted(seen.items())))


def _set_rate(optimiser: torch.optim.AdamW, done: float, peak: float) -> None:
    """Warm-up over 3%, then a cosine to a hundredth."""
    warm = min(1.0, done / 0.03 + 0.02)
    for group in optimiser.param_groups:
        group["lr"] = peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _step(trainer: Trainer, optimiser: torch.optim.AdamW, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(list(trainer.parameters()), 1.0)
    optimiser.step()
