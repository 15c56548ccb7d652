"""The LLaVA-OneVision family against its parent: the same where the parent is right, and each fault that is mended."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import decord
import pytest
import torch
from transformers import BatchFeature, LlavaOnevisionForConditionalGeneration

from model_wrappers import compress
from model_wrappers.errors import SampleError, UserError
from model_wrappers.families.kit import load_vlmeval
from model_wrappers.families.llava_onevision import LLaVAOneVision
from model_wrappers.registry import method
from tests.families.media import picture, video
from tests.tiny import CANVASES, TILE, tiny_llava_onevision, tiny_qwen2_vl

load_vlmeval()
from vlmeval.vlm.llava.llava import LLaVA_OneVision_HF  # noqa: E402

STEPS = 6
Messages = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Messages:
    folder = tmp_path_factory.mktemp("media")
    images = [{"type": "image", "value": picture(folder / f"{n}.png", 60 + 30 * n, 80, n)} for n in range(3)]
    videos = [{"type": "video", "value": video(folder / f"{n}.mp4", 40, seed=n)} for n in range(2)]  # 10 seconds each
    question = {"type": "text", "value": "What is left of the red square?\nA. circle\nB. star"}
    system = {"type": "text", "value": "Watch closely. ", "role": "system"}
    return {
        "image": [images[0], question],
        "three images": [system, images[0], images[1], {"type": "text", "value": " then "}, images[2], question],
        "video": [system, videos[0], question],
        "short video": [{"type": "video", "value": video(folder / "short.mp4", 12)}, question],  # 3 seconds
        "two videos": [videos[0], videos[1], question],
        "mixed": [images[0], {"type": "text", "value": "and"}, videos[0], images[2], question],
        "text": [question],
    }


@pytest.fixture(scope="module")
def ours() -> LLaVAOneVision:
    return LLaVAOneVision(tiny_llava_onevision(), device="cpu", nframe=4, max_new_tokens=STEPS)


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The parent itself; only what keeps it from a CPU, or at it for 2048 tokens, is replaced. What its processor
    returned is recorded."""
    load = LlavaOnevisionForConditionalGeneration.from_pretrained
    generate = LlavaOnevisionForConditionalGeneration.generate
    seen: list[BatchFeature] = []

    def to(self: BatchFeature, *args: Any, **kwargs: Any) -> BatchFeature:
        seen.append(self)
        return self

    def short(self: Any, **kwargs: Any) -> Any:
        return generate(self, **{**kwargs, "max_new_tokens": STEPS})

    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "from_pretrained", lambda path, **_: load(path))
    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "to", lambda self, *_: self.eval())
    monkeypatch.setattr(LlavaOnevisionForConditionalGeneration, "generate", short)
    monkeypatch.setattr(BatchFeature, "to", to)
    model = LLaVA_OneVision_HF(str(tiny_llava_onevision()), nframe=4)
    model.seen = seen
    yield model


@pytest.mark.parametrize("kind", ["image", "three images"])
def test_image_inputs_and_answers_are_the_parents(
    kind: str, messages: Messages, ours: LLaVAOneVision, parent: Any
) -> None:
    expected = parent.generate_inner(copy.deepcopy(messages[kind]), dataset="MMBench_DEV_EN")
    decoded = ours.decode(messages[kind], dataset="MMBench_DEV_EN")
    assert set(decoded.inputs) == set(parent.seen[0])
    for name, value in parent.seen[0].items():
        assert torch.equal(decoded.inputs[name], value), name
    assert ours.generate(copy.deepcopy(messages[kind]), dataset="MMBench_DEV_EN") == expected
    assert expected  # an empty answer would compare nothing


def test_video_inputs_are_the_parents_but_for_the_stray_image(
    messages: Messages, ours: LLaVAOneVision, parent: Any
) -> None:
    """The first fault: after the video the parent's prompt goes on with a literal <image> and a newline."""
    parent.generate_inner(copy.deepcopy(messages["video"]), dataset="MVBench")
    theirs, decoded = parent.seen[0], ours.decode(messages["video"], dataset="MVBench")
    image, clip = ours.model.config.image_token_id, ours.model.config.video_token_id
    assert torch.equal(decoded.inputs["pixel_values_videos"], theirs["pixel_values_videos"])
    ids = theirs["input_ids"][0].tolist()
    assert ids.count(image) == 1 and ids.count(clip) == 4 * 4 + 1
    stray = ids.index(image)
    assert decoded.inputs["input_ids"][0].tolist() == ids[:stray] + ids[stray + 2 :]
    text = ours.processor.tokenizer.decode(
        [token for token in decoded.inputs["input_ids"][0].tolist() if token != clip]
    )
    assert text == (
        "<|im_start|>user \nThe video lasts for 10.00 seconds, and 4 frames are uniformly sampled from it. "
        "These frames are located at 0.00s, 3.25s, 6.50s, 9.75s. Please answer the following questions related to this "
        "video.\nWatch closely. What is left of the red square?\nA. circle\nB. star<|im_end|><|im_start|>assistant\n"
    )
    assert ours.generate(copy.deepcopy(messages["video"]), dataset="MVBench")


def frames_of(path: str, indices: list[int]) -> Any:
    return decord.VideoReader(path).get_batch(indices).asnumpy()


def test_a_short_clip_is_shown_in_as_many_frames_as_asked(messages: Messages, parent: Any) -> None:
    """The second fault: the parent takes a frame a second of a clip that has fewer seconds than frames asked."""
    message = messages["short video"]
    parent.nframe = 8
    parent.generate_inner(copy.deepcopy(message), dataset="MVBench")
    assert parent.seen[0]["pixel_values_videos"].shape[1] == 3
    model = LLaVAOneVision(tiny_llava_onevision(), device="cpu", nframe=8)
    expected = model.processor.video_processor(
        frames_of(message[0]["value"], [0, 1, 3, 4, 6, 7, 9, 11]), return_tensors="pt"
    )
    assert torch.equal(model.decode(message).inputs["pixel_values_videos"], expected["pixel_values_videos"])
    model.nframe = 40
    assert model.decode(message).inputs["pixel_values_videos"].shape[1] == 12  # all that it has


@pytest.mark.parametrize(
    ("fps", "indices"), [(2, [0, 2, 4, 6, 8, 10]), (1, [0, 4, 8]), (0.5, [0, 8]), (3, [0, 1, 3, 4, 5, 7, 8, 9, 11])]
)
def test_frames_a_second(fps: float, indices: list[int], messages: Messages, parent: Any) -> None:
    """The third fault: for an fps variant VLMEvalKit's runner sets nframe to None, which crashes the parent."""
    message = messages["short video"]
    parent.nframe, parent.fps = None, fps
    with pytest.raises(TypeError):
        parent.generate_inner(copy.deepcopy(message), dataset="MVBench")
    model = LLaVAOneVision(tiny_llava_onevision(), device="cpu", fps=fps, max_new_tokens=2)
    assert model.nframe is None
    found = model.decode(message).inputs["pixel_values_videos"]
    expected = model.processor.video_processor(frames_of(message[0]["value"], indices), return_tensors="pt")
    assert torch.equal(found, expected["pixel_values_videos"])
    assert model.generate_inner(message, dataset="MVBench")


@pytest.mark.parametrize(
    ("given", "nframe", "fps", "shown"),
    [
        ({}, 6, None, 6),
        ({}, None, 0.5, 5),
        ({}, 6, 1, 6),
        ({"fps": 2}, None, None, 20),
        ({"nframe": 5}, None, None, 5),
        ({}, None, None, 8),
    ],
)
def test_the_runner_says_how_many_frames(
    given: dict[str, Any], nframe: int | None, fps: float | None, shown: int, messages: Messages
) -> None:
    """VLMEvalKit's loop sets what the dataset says and takes the other away; it replaces nothing but numbers."""
    model = LLaVAOneVision(tiny_llava_onevision(), device="cpu", **given)
    assert model.fps is not None
    model.nframe, model.fps = nframe, fps
    assert model.decode(messages["video"]).inputs["pixel_values_videos"].shape[1] == shown


@pytest.mark.parametrize("kind", ["two videos", "mixed", "text", "three images", "video"])
def test_one_prompt_answers_for_every_method(kind: str, messages: Messages, ours: LLaVAOneVision) -> None:
    prompt = ours.prepare(messages[kind])
    inputs = ours.decode(messages[kind]).inputs
    assert prompt.media == ("video" if "vid" in kind or kind == "mixed" else "image")
    assert prompt.extents is not None and prompt.extents.shape == (prompt.n_visual, 6)
    for name, keep in (("vanilla", 1.0), ("uniform", 0.5), ("first_layer_attention", 0.25), ("fastv", 0.25)):
        text, record = ours.answer(prompt, method(name), keep)
        with compress(ours.model, name, keep=keep) as compression:
            ids = ours.model.generate(**inputs, **ours.generate_kwargs)[0, inputs["input_ids"].shape[1] :]
        assert text == ours.processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert torch.equal(compression.last[0].kept, record.kept)


def test_images_stand_where_they_are_in_the_message(messages: Messages, ours: LLaVAOneVision) -> None:
    ids = ours.decode(messages["three images"]).inputs["input_ids"][0]
    image = ours.model.config.image_token_id
    text = ours.processor.tokenizer.decode(torch.unique_consecutive(ids))
    assert text.startswith("<|im_start|>user Watch closely. <image>\n<image>\n then <image>\nWhat is left")
    assert int((ids == image).sum()) > 3
    mixed = ours.decode(messages["mixed"])
    text = ours.processor.tokenizer.decode(torch.unique_consecutive(mixed.inputs["input_ids"][0]))
    assert text.startswith("<|im_start|>user <video>\nThe video lasts")
    assert "related to this video.\n<image>\nand<image>\nWhat is left" in text


def test_decoding_in_threads_gives_the_same(messages: Messages, ours: LLaVAOneVision) -> None:
    alone = {kind: ours.decode(message).inputs for kind, message in messages.items()}
    with ThreadPoolExecutor(3) as pool:
        jobs = [(kind, pool.submit(ours.decode, messages[kind])) for _ in range(2) for kind in messages]
        results = [(kind, job.result().inputs) for kind, job in jobs]
    for kind, inputs in results:
        assert all(torch.equal(inputs[name], value) for name, value in alone[kind].items())


def test_the_published_layout_is_read(tmp_path: Path, messages: Messages, ours: LLaVAOneVision) -> None:
    """A preprocessor file each for images and videos, the chat template as JSON, weights in shards."""
    folder = tiny_llava_onevision(tmp_path)
    processor = json.loads((folder / "processor_config.json").read_text())
    for part, name in (("image_processor", "preprocessor"), ("video_processor", "video_preprocessor")):
        (folder / f"{name}_config.json").write_text(json.dumps(processor.pop(part)))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    read = LLaVAOneVision(folder, device="cpu", nframe=4, max_new_tokens=STEPS)
    for kind in ("image", "video"):
        inputs = read.decode(messages[kind]).inputs
        assert all(torch.equal(inputs[name], value) for name, value in ours.decode(messages[kind]).inputs.items())
        assert read.generate_inner(messages[kind]) == ours.generate_inner(messages[kind])


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_run_on_a_cpu(stored: torch.dtype, tmp_path: Path, messages: Messages) -> None:
    folder = tiny_llava_onevision(tmp_path)
    LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=stored).save_pretrained(folder)
    model = LLaVAOneVision(folder, device="cpu", attn_implementation="eager", max_new_tokens=3)
    assert model.model.dtype == (torch.float32 if stored == torch.float16 else torch.bfloat16)
    assert model.generate_inner(messages["video"]) and model.generate_inner(messages["image"])
    model.close()
    assert model.model is None


def test_larger_canvases_are_left_out(messages: Messages, ours: LLaVAOneVision) -> None:
    """In the processor and in the model alike: they would count different tokens otherwise."""
    small = LLaVAOneVision(tiny_llava_onevision(), device="cpu", max_pixels=2 * TILE**2, max_new_tokens=2)
    assert small.model.config.image_grid_pinpoints == [[TILE, TILE], [TILE, 2 * TILE], [2 * TILE, TILE]]
    assert small.processor.image_processor.image_grid_pinpoints == small.model.config.image_grid_pinpoints
    assert small.prepare(messages["image"]).n_visual < ours.prepare(messages["image"]).n_visual
    assert small.generate_inner(messages["image"])
    assert ours.model.config.image_grid_pinpoints == CANVASES


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_pixels": 1000}, "max_pixels=1000 is below every canvas of the checkpoint: the smallest has 1764"),
        ({"nframe": 0}, "nframe=0"),
        ({"fps": -1}, "fps=-1"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"method": "shrink"}, "unknown method 'shrink'"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        LLaVAOneVision(tiny_llava_onevision(), device="cpu", **settings)


def test_another_familys_checkpoint_is_told() -> None:
    with pytest.raises(UserError, match="is a qwen2_vl checkpoint, not a llava_onevision one"):
        LLaVAOneVision(tiny_qwen2_vl(), device="cpu")


class TestBadSamples:
    """One bad sample is that sample's error, in a sentence."""

    def said(self, ours: LLaVAOneVision, message: list[dict[str, str]]) -> str:
        with pytest.raises(SampleError) as error:
            ours.decode(message)
        assert "\n" not in str(error.value)
        return str(error.value)

    @pytest.mark.parametrize("kind", ["image", "video"])
    def test_missing_empty_and_broken(self, kind: str, ours: LLaVAOneVision, tmp_path: Path) -> None:
        path = tmp_path / ("a.png" if kind == "image" else "a.mp4")
        message = [{"type": kind, "value": str(path)}, {"type": "text", "value": "What?"}]
        assert self.said(ours, message) == f"The {kind} {path} does not exist."
        path.touch()
        assert self.said(ours, message) == f"The {kind} {path} is an empty file."
        path.write_bytes(bytes(range(256)) * 9)
        assert self.said(ours, message).startswith(f"The {kind} {path} cannot be decoded: ")

    def test_cut_video(self, ours: LLaVAOneVision, tmp_path: Path) -> None:
        whole = Path(video(tmp_path / "whole.mp4")).read_bytes()
        (tmp_path / "a.mp4").write_bytes(whole[: len(whole) * 2 // 3])
        message = [{"type": "video", "value": str(tmp_path / "a.mp4")}]
        assert "a.mp4 cannot be decoded: " in self.said(ours, message)

    @pytest.mark.parametrize("token", ["<image>", "<video>"])
    def test_a_text_that_reads_as_a_picture(self, token: str, ours: LLaVAOneVision) -> None:
        assert repr(token) in self.said(ours, [{"type": "text", "value": f"What does {token} mean in HTML?"}])

    def test_videos_of_different_lengths(self, ours: LLaVAOneVision, tmp_path: Path, messages: Messages) -> None:
        shortest = {"type": "video", "value": video(tmp_path / "a.mp4", frames=2)}
        assert "2 and 4 frames" in self.said(ours, [*messages["video"], shortest])
