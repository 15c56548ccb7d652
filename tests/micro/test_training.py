"""The training's own forward pass against Hugging Face's, and its pixels against the processor's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.micro import training
from harness.micro.batches import EVIDENCE_LAYER, IGNORE, BatchMaker, patches
from harness.micro.forward import decode_text, encode_vision, sees
from harness.micro.model import new_model, new_processor
from harness.micro.prompts import IMAGE_FORMATS, VIDEO_FORMATS
from harness.micro.resume import Resume
from harness.micro.scenes import render, sample_scene
from harness.micro.tokenizer import build_tokenizer
from harness.micro.training import Trainer, train


@pytest.fixture(scope="module")
def parts():  # type: ignore[no-untyped-def]
    tokenizer = build_tokenizer()
    return tokenizer, new_model(tokenizer, 0).eval(), new_processor(tokenizer)


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


@torch.no_grad()
@pytest.mark.parametrize("name", [*VIDEO_FORMATS, *IMAGE_FORMATS])
def test_the_packed_forward_is_hugging_faces_question_by_question(parts, name: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer, model, _ = parts
    batch = BatchMaker(tokenizer, 3).make(name, 2, 3)
    trainer = Trainer(model, tokenizer, 0)
    visual = trainer.encode(batch.pixels, noisy=False)
    embeds = model.get_input_embeddings()(batch.input_ids)
    for row, scene in enumerate(batch.source.tolist()):
        start = int(batch.visual[row])
        embeds[row, start : start + visual.shape[1]] = visual[scene]
    hidden, taps, _ = decode_text(model, embeds, batch.positions, sees(batch.pack))
    assert len(taps) == model.config.text_config.num_hidden_layers
    video = name in VIDEO_FORMATS
    segments, side = batch.pixels.shape[1], batch.pixels.shape[2] // 28
    grid = torch.tensor([[segments, 2 * side, 2 * side]])
    kind = "video" if video else "image"
    for row, scene in enumerate(batch.source.tolist()):
        pixels = patches(batch.pixels[scene : scene + 1])
        names = ("pixel_values_videos", "video_grid_thw") if video else ("pixel_values", "image_grid_thw")
        for question in range(1, int(batch.pack[row].max()) + 1):
            chosen = (batch.pack[row] == 0) | (batch.pack[row] == question)
            ids = batch.input_ids[row, chosen][None]
            types = (ids == tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>")).long() * (2 if video else 1)
            inputs = {names[0]: pixels, names[1]: grid, "mm_token_type_ids": types}
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0]
            torch.testing.assert_close(model.lm_head(hidden[row, chosen]), expected, atol=2e-4, rtol=1e-4)


def test_vision_in_one_batch_is_vision_one_by_one(parts) -> None:  # type: ignore[no-untyped-def]
    tokenizer, model, _ = parts
    _, pixels = BatchMaker(tokenizer, 4).scenes(3, video=True)
    with torch.no_grad():
        together = encode_vision(model, patches(pixels), 4, 6).view(3, 144, -1)
        for number in range(3):
            grid = torch.tensor([[4, 12, 12]])
            alone = model.model.visual(patches(pixels[number : number + 1]), grid).pooler_output
            torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=1e-4)


def test_what_is_taught_is_the_answer(parts) -> None:  # type: ignore[no-untyped-def]
    tokenizer, _, _ = parts
    for name in (*VIDEO_FORMATS, *IMAGE_FORMATS):
        batch = BatchMaker(tokenizer, 1).make(name, 2, 4)
        rows, places = (batch.labels != IGNORE).nonzero(as_tuple=True)
        # Every label is the token that really comes next in its question.
        assert torch.equal(batch.labels[rows, places], batch.input_ids[rows, places + 1])
        settling = [gaze for gaze in batch.gazes if gaze.layer == EVIDENCE_LAYER]
        assert settling and all(gaze.topic for gaze in settling)
        for gaze in settling:
            start = int(batch.visual[gaze.row])
            assert all(start <= token < start + batch.n_visual for token in gaze.tokens)
            assert set(gaze.tokens) <= set(batch.evidence[gaze.row])


def test_what_is_left_out_is_never_evidence_and_never_text(parts) -> None:  # type: ignore[no-untyped-def]
    tokenizer, model, _ = parts
    trainer = Trainer(model, tokenizer, 0)
    batch = trainer.maker.make("MMBench-Video", 4, 4)
    gone = trainer.missing(batch)
    for row, evidence in enumerate(batch.evidence):
        start = int(batch.visual[row])
        assert not gone[row, evidence].any() and not gone[row, :start].any()
        assert not gone[row, start + batch.n_visual :].any()
    assert 0.3 < gone.sum() / (len(gone) * batch.n_visual) < 0.95


def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "VISION_STEPS", 5)
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, 0)
    history = train(model, tokenizer, steps=26, missing_steps=2, seed=0)
    assert history[-1]["hints"] < history[0]["hints"] - 1.0
    assert not model.training


def test_a_stopped_training_goes_on_as_if_it_had_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    for name, value in {"VISION_STEPS": 1, "SAVE_EVERY": 2, "REPORT_EVERY": 1}.items():
        monkeypatch.setattr(training, name, value)

    def run(resume: Resume | None) -> list[dict[str, float]]:
        torch.manual_seed(0)
        return train(new_model(tokenizer, 0), tokenizer, steps=5, missing_steps=1, seed=0, resume=resume)

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
