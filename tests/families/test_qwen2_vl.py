"""The Qwen2-VL family against its parent: the same inputs to the model and the same answers, and clear errors."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_vl_utils import vision_process
from transformers import BatchFeature, Qwen2VLForConditionalGeneration

from model_wrappers import compress
from model_wrappers.errors import SampleError, UserError
from model_wrappers.families.kit import load_vlmeval
from model_wrappers.families.qwen2_vl import Qwen2VL, last_boxed
from model_wrappers.registry import method
from tests.families.media import picture, video
from tests.tiny import tiny_qwen2_vl

load_vlmeval()
from vlmeval.vlm.qwen2_vl import model as kit_module  # noqa: E402

PIXELS = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}
SETTINGS: dict[str, Any] = {**PIXELS, "max_new_tokens": 6}
KINDS = ("image", "three images", "video", "two videos", "mixed", "text")


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("media")
    images = [{"type": "image", "value": picture(folder / f"{n}.png", 60 + 30 * n, 80, n)} for n in range(3)]
    videos = [{"type": "video", "value": video(folder / f"{n}.mp4", 12 + n, seed=n)} for n in range(2)]
    question = {"type": "text", "value": "What is left of the red square?\nA. circle\nB. star"}
    system = {"type": "text", "value": "Watch closely. ", "role": "system"}
    return {
        "image": [images[0], question],
        "three images": [system, images[0], images[1], {"type": "text", "value": " then "}, images[2], question],
        "video": [system, videos[0], question],
        "two videos": [videos[0], videos[1], question],
        "mixed": [images[0], {"type": "text", "value": "and"}, videos[0], images[2], question],
        "text": [question],
    }


@pytest.fixture(scope="module")
def ours() -> Qwen2VL:
    return Qwen2VL(tiny_qwen2_vl(), device="cpu", nframe=4, **SETTINGS)


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The parent itself; only what keeps it from a CPU is replaced, and what its processor returned is recorded."""
    load = Qwen2VLForConditionalGeneration.from_pretrained
    seen: list[BatchFeature] = []

    def to(self: BatchFeature, *args: Any, **kwargs: Any) -> BatchFeature:
        seen.append(self)
        return self

    monkeypatch.setattr(kit_module, "get_gpu_memory", lambda: [1])
    monkeypatch.setattr(
        Qwen2VLForConditionalGeneration, "from_pretrained", lambda path, **_: load(path, attn_implementation="sdpa")
    )
    monkeypatch.setattr(BatchFeature, "to", to)
    model = kit_module.Qwen2VLChat(str(tiny_qwen2_vl()), do_sample=False, nframe=4, fps=None, **SETTINGS)
    model.seen = seen
    yield model


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_answer_are_the_parents(
    kind: str, messages: dict[str, list[dict[str, str]]], ours: Qwen2VL, parent: Any
) -> None:
    message = messages[kind]
    expected = parent.generate_inner(copy.deepcopy(message), dataset="MVBench")
    decoded = ours.decode(message, dataset="MVBench")
    assert set(decoded.inputs) == set(parent.seen[0])
    for name, value in parent.seen[0].items():
        assert torch.equal(decoded.inputs[name], value), name
    assert ours.generate_inner(message, dataset="MVBench") == expected
    assert ours.generate(copy.deepcopy(message), dataset="MVBench") == expected
    assert expected  # an empty answer would compare nothing


@pytest.mark.parametrize("setting", [{"nframe": 5}, {"nframe": 40}, {"fps": 1.0}, {"fps": 2, "nframe": 8}, {}])
def test_frames_are_the_parents(
    setting: dict[str, Any], messages: dict[str, list[dict[str, str]]], ours: Qwen2VL, parent: Any
) -> None:
    """With nframe above what the video has, the parent cuts it to an even number; fps wins over nframe."""
    model = copy.copy(ours)
    theirs = {"fps": None, **setting} if "nframe" in setting else setting
    parent.fps, parent.nframe = theirs.get("fps", 2), theirs.get("nframe", 128)
    chosen = Qwen2VL(tiny_qwen2_vl(), device="cpu", **setting, **SETTINGS)
    assert (chosen.fps, chosen.nframe) == (parent.fps, parent.nframe)
    model.fps, model.nframe = chosen.fps, chosen.nframe
    parent.generate_inner(copy.deepcopy(messages["video"]))
    inputs = model.decode(messages["video"]).inputs
    assert torch.equal(inputs["pixel_values_videos"], parent.seen[0]["pixel_values_videos"])
    assert torch.equal(inputs["video_grid_thw"], parent.seen[0]["video_grid_thw"])


def test_images_may_have_pixels_of_their_own(messages: dict[str, list[dict[str, str]]], ours: Qwen2VL) -> None:
    before = ours.decode(messages["mixed"]).inputs
    ours.image_pixels = 168 * 168
    try:
        after = ours.decode(messages["mixed"]).inputs
    finally:
        ours.image_pixels = None
    assert (after["image_grid_thw"].prod(-1) // 4).tolist() == pytest.approx([36, 36], abs=6)
    assert after["video_grid_thw"].tolist() == before["video_grid_thw"].tolist()


def test_system_prompt_and_ocrbench_are_the_parents(
    messages: dict[str, list[dict[str, str]]], ours: Qwen2VL, parent: Any
) -> None:
    parent.system_prompt = "Answer in one word."
    parent.max_pixels = 11 * 10 * 28 * 28
    model = copy.copy(ours)
    model.system_prompt, model.max_pixels = parent.system_prompt, parent.max_pixels
    with pytest.warns(UserWarning, match="OCRBench"):
        parent.generate_inner(copy.deepcopy(messages["image"]), dataset="OCRBench")
        inputs = model.decode(messages["image"], dataset="OCRBench").inputs
    assert inputs["image_grid_thw"].prod() // 4 > 16  # OCRBench asks for more than max_pixels allowed before
    for name, value in parent.seen[0].items():
        assert torch.equal(inputs[name], value), name


@pytest.mark.parametrize(
    "text",
    ["so \\boxed{B}", "\\boxed{1} or \\boxed{\\frac{1}{2}} x", "no box", "a } b", "", "ends with \\boxed{", "{}{"],
)
def test_post_processing_is_the_parents(
    text: str, messages: dict[str, list[dict[str, str]]], parent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent.post_process = True
    monkeypatch.setattr(parent.processor.tokenizer, "batch_decode", lambda *args, **kwargs: [text])
    assert last_boxed(text) == parent.generate_inner(copy.deepcopy(messages["text"]))


def test_nothing_is_printed_and_the_parent_still_prints(
    messages: dict[str, list[dict[str, str]]], ours: Qwen2VL, parent: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    model = copy.copy(ours)
    model.nframe = parent.nframe = 40
    Qwen2VL(tiny_qwen2_vl(), device="cpu", nframe=40, **SETTINGS).generate_inner(messages["video"])
    model.generate_inner(messages["video"])
    assert capfd.readouterr() == ("", "")
    parent.generate_inner(copy.deepcopy(messages["video"]))
    assert "use 12 for" in capfd.readouterr().out


def test_one_prompt_answers_for_every_method(messages: dict[str, list[dict[str, str]]], ours: Qwen2VL) -> None:
    prompt = ours.prepare(messages["video"])
    inputs = ours.decode(messages["video"]).inputs
    for name, keep in (("vanilla", 1.0), ("uniform", 0.5), ("first_layer_attention", 0.25), ("fastv", 0.25)):
        text, record = ours.answer(prompt, method(name), keep)
        assert len(record.kept) == max(1, math.floor(keep * prompt.n_visual + 0.5))
        with compress(ours.model, name, keep=keep) as compression:
            ids = ours.model.generate(**inputs, **ours.generate_kwargs)[0, inputs["input_ids"].shape[1] :]
        assert text == ours.processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert torch.equal(compression.last[0].kept, record.kept)


def test_generate_uses_the_objects_own_method(messages: dict[str, list[dict[str, str]]], ours: Qwen2VL) -> None:
    pruned = copy.copy(ours)
    pruned.method, pruned.keep = method("first_layer_attention"), 0.1
    expected = ours.answer(ours.prepare(messages["video"]), "first_layer_attention", 0.1)[0]
    assert pruned.generate(copy.deepcopy(messages["video"])) == expected


def test_decoding_in_threads_gives_the_same(messages: dict[str, list[dict[str, str]]], ours: Qwen2VL) -> None:
    """Several threads decode while this one generates and reads answers with the same tokenizer."""
    alone = {kind: ours.decode(message).inputs for kind, message in messages.items()}
    threads = set()

    def decode(kind: str) -> tuple[str, BatchFeature]:
        threads.add(threading.get_ident())
        return kind, ours.decode(messages[kind]).inputs

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(decode, kind) for _ in range(4) for kind in KINDS]
        prompt = ours.prepare(messages["image"])
        answers = {ours.answer(prompt, "vanilla", 1.0)[0] for _ in range(8)}
        results = [job.result() for job in jobs]
    assert len(threads) == 3 and len(answers) == 1
    for kind, inputs in results:
        assert all(torch.equal(inputs[name], value) for name, value in alone[kind].items())


def test_sample_ids_follow_the_content_and_not_the_place(tmp_path: Path, ours: Qwen2VL) -> None:
    ids = {}
    for place in ("here", "there"):
        (tmp_path / place / "set").mkdir(parents=True)
        for name in ("a.png", "b.png"):
            path = picture(tmp_path / place / "set" / name)
            for text in ("What?", "Where?"):
                message = [{"type": "image", "value": path}, {"type": "text", "value": text}]
                ids[place, name, text] = ours.decode(message, "A" if place == "here" else None).sample_id
    assert all(ids["here", name, text] == ids["there", name, text] for _, name, text in ids)
    assert len(set(ids.values())) == 4


def test_greedy_generation_does_not_warn_of_sampling_settings(
    messages: dict[str, list[dict[str, str]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The published checkpoints come with do_sample, top_k, top_p and temperature in their generation config."""
    folder = tiny_qwen2_vl(tmp_path)
    loaded = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    loaded.generation_config.update(do_sample=True, temperature=0.01, top_p=0.001, top_k=1, repetition_penalty=1.05)
    loaded.generation_config.save_pretrained(folder)
    model = Qwen2VL(folder, device="cpu", nframe=4, **SETTINGS)
    plain = Qwen2VL(tiny_qwen2_vl(), device="cpu", nframe=4, **SETTINGS)
    logger = logging.getLogger("transformers")  # whose records go no further up
    logger.addHandler(caplog.handler)
    try:
        assert model.generate_inner(messages["video"]) == plain.generate_inner(messages["video"])
        assert caplog.text == ""
        model.generate_kwargs |= {"top_k": 1, "temperature": 0.01}
        model.generate_inner(messages["video"])
        assert "temperature" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_run_on_a_cpu(
    stored: torch.dtype, tmp_path: Path, messages: dict[str, list[dict[str, str]]]
) -> None:
    folder = tiny_qwen2_vl(tmp_path)
    Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=stored).save_pretrained(folder)
    model = Qwen2VL(folder, device="cpu", nframe=4, attn_implementation="eager", **SETTINGS)
    assert model.model.dtype == (torch.float32 if stored == torch.float16 else torch.bfloat16)
    assert model.generate_inner(messages["video"])
    model.close()
    assert model.model is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_vllm": True}, "use_vllm"),
        ({"min_pixels": 900, "max_pixels": 800}, "min_pixels=900 is above max_pixels=800"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"method": "shrink"}, "unknown method 'shrink'"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Qwen2VL(tiny_qwen2_vl(), device="cpu", **settings)


class TestBadMedia:
    """One bad file is that sample's error, in a sentence that names it."""

    def said(self, ours: Qwen2VL, kind: str, path: Path) -> str:
        message = [{"type": kind, "value": str(path)}, {"type": "text", "value": "What?"}]
        with pytest.raises(SampleError) as error:
            ours.decode(message)
        with pytest.raises(SampleError):  # by the way that VLMEvalKit's loop takes
            ours.generate(copy.deepcopy(message), dataset="MVBench")
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    @pytest.mark.parametrize("kind", ["image", "video"])
    def test_missing_and_empty(self, kind: str, ours: Qwen2VL, tmp_path: Path) -> None:
        path = tmp_path / ("a.png" if kind == "image" else "a.mp4")
        assert self.said(ours, kind, path) == f"The {kind} {path} does not exist."
        path.touch()
        assert self.said(ours, kind, path) == f"The {kind} {path} is an empty file."

    def test_no_image(self, ours: Qwen2VL, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("not a picture")
        assert "cannot be decoded: cannot identify image file" in self.said(ours, "image", tmp_path / "a.png")

    def test_cut_image(self, ours: Qwen2VL, tmp_path: Path) -> None:
        whole = Path(picture(tmp_path / "whole.png", 300, 300)).read_bytes()
        (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
        assert "cannot be decoded: image file is truncated" in self.said(ours, "image", tmp_path / "a.png")

    @pytest.mark.parametrize("damage", ["garbage", "cut", "holes"])
    def test_corrupt_video(self, damage: str, ours: Qwen2VL, tmp_path: Path) -> None:
        whole = Path(video(tmp_path / "whole.mp4")).read_bytes()
        third = len(whole) // 3
        path = tmp_path / "a.mp4"
        noise = bytes(range(256)) * (third // 256 + 1)
        if damage == "holes":
            path.write_bytes(whole[:third] + noise[:third] + whole[2 * third :])
        else:
            path.write_bytes(noise if damage == "garbage" else whole[: 2 * third])
        assert "cannot be decoded: " in self.said(ours, "video", path)

    def test_one_frame(self, ours: Qwen2VL, tmp_path: Path) -> None:
        video(tmp_path / "a.mp4", frames=1)
        assert "nframes should in interval [2, 1]" in self.said(ours, "video", tmp_path / "a.mp4")

    def test_no_second_reader_steps_in(self, ours: Qwen2VL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """qwen_vl_utils hands a file that its reader refuses to torchvision, which may return frames of it."""
        (tmp_path / "a.mp4").write_bytes(b"garbage" * 99)

        def other_reader(item: dict[str, Any]) -> Any:
            return torch.zeros(4, 3, 56, 56), {"video_backend": "torchvision"}, 1.0

        monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, "torchvision", other_reader)
        assert "cannot be decoded by decord" in self.said(ours, "video", tmp_path / "a.mp4")
