"""Visual tokens and memory from sizes, against the paper, the real processors' rule, and the real models' weights."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.estimate import inputs, memory
from harness.estimate.inputs import Input, input_of
from harness.estimate.sizes import Sizes
from harness.experiments import load, names_with
from harness.flops import PromptSize, shape_of
from harness.models import model_info
from harness.plan import info_of
from harness.published import CONFIGS
from model_wrappers.families import family_class

LLAVA, QWEN, VILA = "llava-onevision-qwen2-7b-ov-hf", "Qwen2-VL-7B-Instruct", "Llama-3-VILA1.5-8b"


def of(table: str, model: str, modality: str) -> Input:
    chosen = load(table, "paper")
    return input_of(info_of(chosen, model), chosen.settings_of(model), modality, chosen.frames_of(model))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("table", "model", "modality", "visual", "pictures"),
    [
        # Section 4.1: 8 frames, and images near 1,500 tokens.
        ("table3", LLAVA, "video", 1569, 8),
        ("table3", QWEN, "video", 1296, 4),
        ("table3", VILA, "video", 1568, 8),
        ("table2", QWEN, "image", 1849, 1),
        ("table1", VILA, "image", 196, 1),
        # Appendix: an image of 384 x 512 pixels, 32 frames (VILA 16), a video of 720 x 1280 pixels.
        ("table7", LLAVA, "image", 1728, 3),
        ("table7", QWEN, "image", 1302, 1),
        ("table8", LLAVA, "video", 6273, 32),
        ("table8", QWEN, "video", 5824, 16),
        ("table8", VILA, "video", 3136, 16),
    ],
)
def test_the_papers_visual_tokens(table: str, model: str, modality: str, visual: int, pictures: int) -> None:
    assert of(table, model, modality) == Input(visual, pictures)


def test_greedy_decoding_and_the_checkpoints_own_dtype() -> None:
    """Section 4.1 changes frames and pixels only: nothing else is said of any model in any table."""
    for name in names_with("paper"):
        chosen = load(name, "paper")
        assert (chosen.dtype, chosen.max_new_tokens) == ("auto", None)
        said = {key for model in chosen.models for key in chosen.settings_of(model)}
        assert said <= {"min_pixels", "max_pixels", "image_pixels"}
        for model in chosen.models:
            made = inspect.signature(family_class(model_info(model).family).__init__).parameters
            assert made["do_sample"].default is False and made["max_new_tokens"].default == 2048
            assert len(str(model_info(model).revision)) == 40, "pinned"


def test_a_sample_of_several_images_and_a_short_video() -> None:
    chosen = load("table3", "paper")
    info = info_of(chosen, LLAVA)
    assert input_of(info, {}, "video", 8, Sizes(100, 100, 5, 1)) == Input(5 * 196 + 1, 5)
    assert input_of(info_of(chosen, VILA), {}, "image", 8, Sizes(100, 100, None, 3)) == Input(588, 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(28, 4000), st.integers(28, 4000), st.integers(4, 300), st.integers(0, 4000))
def test_pixels_are_fitted_as_qwen_vl_utils_fits_them(height: int, width: int, low: int, more: int) -> None:
    from qwen_vl_utils.vision_process import smart_resize

    if max(height, width) / min(height, width) > 100:
        return  # which it refuses
    bounds = low * 784, (low + 1 + more) * 784
    theirs = smart_resize(height, width, factor=28, min_pixels=bounds[0], max_pixels=bounds[1])
    rows, columns = inputs.fitted(height, width, *bounds)
    assert (rows * 28, columns * 28) == tuple(max(28, side) for side in theirs), "it may give a side of 0 pixels"


@pytest.mark.parametrize("hub_id", list(CONFIGS))
def test_parameters_are_those_of_the_real_classes(hub_id: str) -> None:
    """Counted on the meta device, where weights take no memory. VILA's unused last layer is not built."""
    from harness.efficiency.shapes import build, config_of

    name = hub_id.partition("/")[2]
    model = build(config_of(name), "meta", "float16")
    real = sum(each.numel() for each in model.parameters())
    counted = memory.parameters(shape_of(name), tied=bool(CONFIGS[hub_id]["tie_word_embeddings"]))
    assert counted == pytest.approx(real, rel=0.01)


def test_memory_adds_up() -> None:
    shape = shape_of(QWEN)
    found = memory.need(shape, PromptSize(1296, 128, 128, 4, 32))
    assert found.weights == 2 * memory.parameters(shape)
    assert found.cache == 2 * 2 * 28 * 4 * 128 * (1296 + 128 + 32), "two bytes; keys and values of 4 heads of 128"
    more = memory.need(shape, PromptSize(1296, 128, 128, 4, 32), gradients=True)
    assert more.states == 28 * 2 * (1296 + 128) * (6 * 3584 + 3 * 18944) > found.states
    assert found.total == found.weights + found.cache + found.states + memory.CONTEXT


def test_an_embedded_model_is_read_from_its_folder(tmp_path: Path) -> None:
    chosen = load("table3")
    model = "micro-qwen2-vl"
    found = input_of(info_of(chosen, model), chosen.settings_of(model), "video", 8, Sizes(168, 168, 40, 1))
    assert found == Input(144, 4)
