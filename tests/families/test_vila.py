"""The VILA family against VLMEvalKit's own class: the same prompts, images and answers; and clear errors."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from model_wrappers.errors import SampleError, UserError
from model_wrappers.families import family_class
from model_wrappers.families.vila import VILA
from model_wrappers.registry import method
from model_wrappers.vila import VilaProcessor
from tests.families.media import picture
from tests.families.stock_vila import IMAGE_TOKEN_INDEX, stock_vila
from tests.tiny_vila import tiny_vila

STEPS = 8
TOKENS = 16
KINDS = {"image": "MMBench_DEV_EN", "images among texts": "MMMU_DEV_VAL", "frames": "Video-MME", "no dataset": None}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("media")
    images = [{"type": "image", "value": picture(folder / f"{n}.png", 60 + 30 * n, 80, n)} for n in range(4)]
    grey = folder / "grey.png"
    Image.open(images[3]["value"]).convert("L").save(grey)
    question = {"type": "text", "value": "What is left of the red square?\nA. circle\nB. <b>star</b>\n"}
    then = {"type": "text", "value": " then "}
    frames = {"type": "text", "value": "\nThese are the frames of a video. Select the best answer.\n"}
    return {
        "image": [images[0], question],
        "images among texts": [then, images[0], images[1], then, {"type": "image", "value": str(grey)}, question],
        "frames": [*images, frames, question],
        "no dataset": [question, images[2]],
        "text": [question],
    }


@pytest.fixture(scope="module")
def ours() -> VILA:
    return VILA(tiny_vila(), device="cpu", max_new_tokens=STEPS)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_answer_are_the_kits(
    kind: str, adds_bos: bool, messages: dict[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    folder = tiny_vila(adds_bos=adds_bos)
    kit = stock_vila(folder, max_new_tokens=STEPS, do_sample=False)
    expected = kit.generate_inner(copy.deepcopy(messages[kind]), KINDS[kind])
    ((theirs, images),) = kit.model.seen

    model = VILA(folder, device="cpu", max_new_tokens=STEPS)
    decoded = model.decode(messages[kind], KINDS[kind])
    visual = [model.processor.image_token_id] * TOKENS
    spliced = [one for token in theirs for one in (visual if token == IMAGE_TOKEN_INDEX else [token])]
    assert decoded.inputs["input_ids"][0].tolist() == spliced
    torch.testing.assert_close(decoded.inputs["pixel_values"].half(), images, rtol=0, atol=1e-3)
    assert model.generate_inner(messages[kind], KINDS[kind]) == expected
    assert model.generate(copy.deepcopy(messages[kind]), KINDS[kind]) == expected
    assert expected  # an empty answer would compare nothing


@pytest.mark.parametrize("stop", [0, 1])
def test_an_answer_ends_where_the_kits_does(
    stop: int, messages: dict[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At <|eot_id|> (the kit's keyword) and at <|end_of_text|> (the model's generation config)."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    model, kit = VILA(tiny_vila(), device="cpu", max_new_tokens=STEPS), stock_vila(tiny_vila(), max_new_tokens=STEPS)
    whole = kit.generate_inner(messages["image"])
    said, end = kit.model.said[0], model.processor.stop_ids[stop]
    assert len(said) == STEPS
    for one in (model.model, kit.model.inner):
        with torch.no_grad():  # from here on the stop is likelier than what was said fourth
            one.lm_head.weight[end] = 1.5 * one.lm_head.weight[said[3]]
    answer = kit.generate_inner(messages["image"])
    assert kit.model.said[1][-1] == end and len(kit.model.said[1]) <= 4
    assert model.generate_inner(messages["image"]) == answer != whole


def test_text_alone(ours: VILA, messages: dict[str, list[dict[str, str]]]) -> None:
    """The kit's class cannot: it stacks no images."""
    prompt = ours.prepare(messages["text"], "MMBench_DEV_EN")
    assert prompt.n_visual == 0 and prompt.extents is not None and prompt.extents.shape == (0, 6)
    assert ours.generate_inner(messages["text"], "MMBench_DEV_EN")


def test_both_layouts_answer_alike(ours: VILA, messages: dict[str, list[dict[str, str]]]) -> None:
    hub = VILA(tiny_vila(layout="hub"), device="cpu", max_new_tokens=STEPS)
    assert family_class("llava_llama") is family_class("retain_vila") is VILA
    assert hub.model.name_or_path == hub.model_path == str(tiny_vila(layout="hub"))
    for kind, dataset in KINDS.items():
        assert hub.generate_inner(messages[kind], dataset) == ours.generate_inner(messages[kind], dataset)


def test_media_is_the_data_sets(ours: VILA, messages: dict[str, list[dict[str, str]]]) -> None:
    for kind, dataset in KINDS.items():
        assert ours.prepare(messages[kind], dataset).media == ("video" if dataset == "Video-MME" else "image")


@pytest.mark.parametrize("order", ["column", "row"])
def test_extents_are_stretches_of_time_and_the_tokens_places(
    order: str, messages: dict[str, list[dict[str, str]]]
) -> None:
    model = VILA(tiny_vila(patches=7, root={"token_order": order}), device="cpu", max_new_tokens=STEPS)
    prompt = model.prepare(messages["frames"], "Video-MME")
    assert prompt.extents is not None
    assert prompt.extents.shape == (prompt.n_visual, 6) == (4 * TOKENS, 6)
    edges = [0, 2 / 7, 4 / 7, 6 / 7, 1]
    for number, extent in enumerate(prompt.extents):
        frame, token = divmod(number, TOKENS)
        row, column = (token % 4, token // 4) if order == "column" else divmod(token, 4)
        expected = [frame / 4, (frame + 1) / 4, edges[row], edges[row + 1], edges[column], edges[column + 1]]
        torch.testing.assert_close(extent, torch.tensor(expected))


def test_one_prompt_answers_for_every_method(ours: VILA, messages: dict[str, list[dict[str, str]]]) -> None:
    prompt = ours.prepare(messages["frames"], "Video-MME")
    vanilla, record = ours.answer(prompt, "vanilla", 1.0)
    assert vanilla == ours.generate_inner(messages["frames"], "Video-MME")
    assert record.visual == len(record.kept) == 4 * TOKENS
    for name in ("random", "uniform", "fastv"):
        cut = VILA(tiny_vila(), device="cpu", max_new_tokens=STEPS, method=method(name), keep=0.25)
        answer, record = ours.answer(prompt, name, 0.25)
        assert len(record.kept) == TOKENS
        assert answer == cut.generate_inner(messages["frames"], "Video-MME")


def test_decoding_in_threads(ours: VILA, messages: dict[str, list[dict[str, str]]]) -> None:
    expected = {kind: ours.decode(message, "Video-MME") for kind, message in messages.items()}
    with ThreadPoolExecutor(4) as pool:
        many = list(messages) * 6
        for kind, got in zip(many, pool.map(lambda kind: ours.decode(messages[kind], "Video-MME"), many), strict=True):
            assert got.sample_id == expected[kind].sample_id
            for name, value in expected[kind].inputs.items():
                assert torch.equal(got.inputs[name], value)


def test_a_message_that_cannot_be_answered_is_told(ours: VILA, tmp_path: Path) -> None:
    question = {"type": "text", "value": "Who?"}
    empty, broken, missing = tmp_path / "empty.png", tmp_path / "broken.png", tmp_path / "missing.png"
    empty.touch()
    whole = Path(picture(tmp_path / "whole.png"))
    broken.write_bytes(whole.read_bytes()[:60])
    for path, sentence in ((missing, "does not exist"), (empty, "is an empty file"), (broken, "cannot be decoded")):
        message = [{"type": "image", "value": str(path)}, question]
        for call in (ours.decode, ours.generate):
            with pytest.raises(SampleError, match=sentence) as caught:
                call(copy.deepcopy(message), "MMBench_DEV_EN")
            assert str(path) in str(caught.value)
    with pytest.raises(SampleError, match="takes a video's frames as images, not the video"):
        ours.decode([{"type": "video", "value": str(whole)}, question])
    with pytest.raises(SampleError, match="has <image> in it"):
        ours.decode([{"type": "image", "value": str(whole)}, {"type": "text", "value": "Is <image> a word?"}])
    short = VILA(tiny_vila(tokenizer_model_max_length=300), device="cpu")
    with pytest.raises(SampleError, match="made for 300: use fewer images or frames"):
        short.decode([{"type": "image", "value": str(whole)}] * 8 + [question])


def test_settings(messages: dict[str, list[dict[str, str]]], capfd: pytest.CaptureFixture[str]) -> None:
    model = VILA(
        tiny_vila(layout="hub"), device="cpu", dtype="auto", attn_implementation="eager", nframe=4, do_sample=True
    )
    assert (model.nframe, model.fps, model.VIDEO_LLM, model.INTERLEAVE) == (4, None, False, True)
    assert (model.device, model.max_new_tokens, model.keep) == ("cpu", 2048, 1.0)
    assert model.use_custom_prompt("MMBench_DEV_EN") is False
    assert model.generate_kwargs["do_sample"] is True
    assert model.model.config._attn_implementation == "eager"
    assert isinstance(model.processor, VilaProcessor)
    half = VILA(tiny_vila(), device="cpu", dtype=torch.bfloat16, max_new_tokens=2)
    assert half.model.dtype == torch.bfloat16
    half.generate_inner(messages["image"], "MMBench_DEV_EN")
    half.close()
    assert half.model is None
    assert capfd.readouterr() == ("", "")


def test_float16_on_a_cpu_is_computed_in_float32(tmp_path: Path) -> None:
    model = VILA(tiny_vila(), device="cpu")
    model.model.half().save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    assert VILA(tmp_path, device="cpu").model.dtype == torch.float32
    assert VILA(tmp_path, device="cpu", dtype="float16").model.dtype == torch.float16


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    from tests.tiny import tiny_qwen2_vl

    with pytest.raises(UserError, match="is a qwen2_vl checkpoint, not a llava_llama or retain_vila one"):
        VILA(tiny_qwen2_vl())
    with pytest.raises(UserError, match="No checkpoint folder"):
        VILA(tmp_path / "nowhere")
    with pytest.raises(UserError, match="keep"):
        VILA(tiny_vila(), keep=0.0)
