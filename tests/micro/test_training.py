"""Training: its pixels against the processor's, what it teaches, and that a stopped one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.micro import training
from harness.micro.batches import EVIDENCE_LAYER, IGNORE, BatchMaker
from harness.micro.families import FAMILIES, family
from harness.micro.families.qwen2_vl import encode_vision, patches
from harness.micro.resume import Resume
from harness.micro.scenes import render, sample_scene
from harness.micro.training import FROM_NOTHING, Schedule, Trainer, train

QWEN = family("micro-qwen2-vl")


@pytest.fixture(scope="module")
def parts():  # type: ignore[no-untyped-def]
    tokenizer = QWEN.tokenizer()
    return tokenizer, QWEN.new_model(tokenizer, 0).eval(), QWEN.processor(tokenizer)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PACKED", {name: (2, 4) for name in training.PACKED})


@pytest.mark.parametrize("video", [True, False])
def test_patches_are_the_processors(parts, video: bool) -> None:  # type: ignore[no-untyped-def]
    _, _, processor = parts
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, video=video, held_out=False)
    picture = torch.from_numpy(render(scene, rng))
    if video:
        frames = picture.permute(0, 3, 1, 2).repeat_interleave(2, dim=0)
        made = processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
        expected, grid = made["pixel_values_videos"], made["video_grid_thw"]
    else:
        made = processor.image_processor(images=[picture[0].permute(2, 0, 1)], return_tensors="pt")
        expected, grid = made["pixel_values"], made["image_grid_thw"]
    assert grid.tolist() == [[scene.segments, 2 * scene.side, 2 * scene.side]]
    torch.testing.assert_close(patches(picture[None]), expected, atol=1e-5, rtol=0)


def test_vision_in_one_batch_is_vision_one_by_one(parts) -> None:  # type: ignore[no-untyped-def]
    tokenizer, model, _ = parts
    _, pixels = BatchMaker(QWEN, tokenizer, 4).scenes(3, video=True)
    with torch.no_grad():
        together = encode_vision(model, patches(pixels), 4, 6).view(3, 144, -1)
        for number in range(3):
            grid = torch.tensor([[4, 12, 12]])
            alone = model.model.visual(patches(pixels[number : number + 1]), grid).pooler_output
            torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_what_is_taught_is_the_answer(name: str) -> None:
    made = family(name)
    tokenizer = made.tokenizer()
    for form in (*made.video, *made.image):
        batch = BatchMaker(made, tokenizer, 1).make(form, 2, 4)
        rows, places = (batch.labels != IGNORE).nonzero(as_tuple=True)
        # Every label is the token that really comes next in its question.
        assert torch.equal(batch.labels[rows, places], batch.input_ids[rows, places + 1])
        settling = [gaze for gaze in batch.gazes if gaze.layer == EVIDENCE_LAYER]
        assert settling and all(gaze.topic for gaze in settling)
        for gaze in settling:
            assert gaze.tokens and set(gaze.tokens) <= set(batch.visual[gaze.row].tolist())
            assert set(gaze.tokens) <= set(batch.evidence[gaze.row])


def test_what_is_left_out_is_never_evidence_and_never_text(parts) -> None:  # type: ignore[no-untyped-def]
    tokenizer, model, _ = parts
    trainer = Trainer(QWEN, model, tokenizer, 0)
    batch = trainer.maker.make("MMBench-Video", 4, 4)
    gone = trainer.missing(batch)
    for row, evidence in enumerate(batch.evidence):
        text = torch.ones(gone.shape[1], dtype=torch.bool)
        text[batch.visual[row]] = False
        assert not gone[row, evidence].any() and not gone[row, text].any()
    assert 0.3 < gone.sum() / batch.visual.numel() < 0.95


@pytest.mark.usefixtures("small_batches")
def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 6)
    tokenizer = QWEN.tokenizer()
    model = QWEN.new_model(tokenizer, 0)
    history = train(QWEN, model, tokenizer, Schedule(3, 14, 1, 1, 1, FROM_NOTHING.mix), seed=0)
    assert history[-1]["hints"] < history[0]["hints"] - 1.0
    assert not model.training


@pytest.mark.usefixtures("small_batches")
def test_a_stopped_training_goes_on_as_if_it_had_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokenizer = QWEN.tokenizer()
    for name, value in {"SAVE_EVERY": 2, "REPORT_EVERY": 1}.items():
        monkeypatch.setattr(training, name, value)

    def run(resume: Resume | None) -> list[dict[str, float]]:
        torch.manual_seed(0)
        schedule = Schedule(1, 5, 0, 1, 1, FROM_NOTHING.mix)
        return train(QWEN, QWEN.new_model(tokenizer, 0), tokenizer, schedule, seed=0, resume=resume)

    whole = run(None)
    state = Resume(tmp_path / "state.safetensors")
    step, real = 0, training._step

    def stop_in_the_fourth(*arguments: Any) -> None:
        nonlocal step
        step += 1
        if step == 5:  # one of vision, then the fourth of all together
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(training, "_step", stop_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(state)
    monkeypatch.setattr(training, "_step", real)
    assert state.step(steps=5, seed=0) == 2 and state.step(steps=6, seed=0) == 0
    rest = run(state)
    assert len(rest) == 3
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
