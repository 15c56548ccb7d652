"""What is drawn is what the model says: its answers, the tokens its methods keep, the pictures it was given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import decord
import numpy as np
import pytest
import torch
from PIL import Image

from harness.models import open_model
from harness.show import gather as gathering
from harness.show.gather import GUIDES, Gathered, ask, gather, printable
from harness.show.request import check
from model_wrappers.compressor import Compressor
from model_wrappers.errors import UserError
from model_wrappers.relevance.textbook import textbook_relevance
from model_wrappers.selection import budget, top
from tests.show.conftest import QUESTION
from tests.tiny import tiny_qwen2_vl
from tests.tiny_vila import tiny_vila


def message(model: Any, gathered: Gathered, folder: Path) -> list[dict[str, str]]:
    """The same question as the sweep would put it."""
    request, text = gathered.request, {"type": "text", "value": QUESTION}
    if request.media == "image" or model.VIDEO_LLM:
        return [{"type": request.media, "value": str(request.path)}, text]
    reader = decord.VideoReader(str(request.path))
    paths = []
    for place in (3, 6, 9):  # 12 frames in four parts: where the three parts after the first begin
        paths.append({"type": "image", "value": str(folder / f"{place}.png")})
        Image.fromarray(reader[place].asnumpy()).save(folder / f"{place}.png")
    return [*paths, text]


def test_answers_and_tokens_are_those_of_the_methods(model: Any, gathered: Gathered, tmp_path: Path) -> None:
    prompt = model.prepare(message(model, gathered, tmp_path))
    prompt.media = gathered.request.media
    assert gathered.answer == printable(model.answer(prompt, "vanilla", 1.0)[0])
    assert [guide.method for guide in gathered.guides] == list(GUIDES)
    for guide in gathered.guides:
        assert guide.scores is not None and guide.scores.shape == (prompt.n_visual,)
        for cut, keep in zip(guide.cuts, (0.5, 0.25), strict=True):
            answer, record = model.answer(prompt, guide.method, keep)
            assert (cut.keep, cut.answer) == (keep, printable(answer))
            assert cut.kept.tolist() == record.kept.tolist()
            best = top(torch.from_numpy(guide.scores), budget(keep, prompt.n_visual))
            assert cut.kept.tolist() == best.tolist()


def test_relevance_explains_the_answer_from_all_tokens(model: Any, gathered: Gathered, tmp_path: Path) -> None:
    prompt = model.prepare(message(model, gathered, tmp_path))
    model.answer(prompt, "vanilla", 1.0)
    response = prompt.cache["response_ids"]
    ends = set(model.model.generation_config.eos_token_id)
    while len(response) > 1 and int(response[-1]) in ends:
        response = response[:-1]
    expected = textbook_relevance(model.model, prompt, response)
    found = gathered.guides[0].scores
    assert found is not None
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * float(expected.max()))


def test_the_pictures_are_those_the_model_is_given(gathered: Gathered) -> None:
    request, family = gathered.request, gathered.request.model.rpartition("/")[2]
    if request.media == "image":
        (shown,) = gathered.pictures
        original = np.asarray(Image.open(request.path))
        if family == "qwen2_vl":  # which resizes before its processor
            assert shown.shape[0] % 28 == shown.shape[1] % 28 == 0
        else:
            np.testing.assert_array_equal(shown, original)
        return
    reader = decord.VideoReader(str(request.path))
    places = {"qwen2_vl": (0, 4, 7, 11), "llava_onevision": (0, 5, 11), "vila": (3, 6, 9)}[family]
    assert len(gathered.pictures) == len(places)
    for shown, place in zip(gathered.pictures, places, strict=True):
        frame = Image.fromarray(reader[place].asnumpy()).resize(shown.shape[1::-1])
        assert shown.dtype == np.uint8 and np.abs(np.asarray(frame, float) - shown).mean() < 8


def test_a_model_of_frames_takes_the_compressor_for_videos(media: dict[str, Path], tmp_path: Path) -> None:
    """And says in a sentence that it has none for images, with everything else as ever."""
    shutil.copytree(tiny_vila(), tmp_path / "vila")
    Compressor("vila", media="video").save_pretrained(tmp_path / "vila" / "compressor-video")
    model = open_model(str(tmp_path / "vila"), device="cpu", max_new_tokens=4)
    lacking = {}
    for kind in ("image", "video"):
        shown: dict[str, Path | None] = {"image": None, "video": None, kind: media[kind]}
        found = ask(model, check(str(tmp_path / "vila"), QUESTION, **shown))
        assert [guide.scores is None for guide in found.guides] == [False, kind == "image", False]
        lacking[kind] = found.guides[1].lacking
    assert lacking["video"] is None and "compressor-image" in str(lacking["image"])


def test_frames_are_asked_for(media: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def opened(name: str, **settings: Any) -> Any:
        asked.append(settings)
        return open_model(name, device="cpu", max_new_tokens=2, **settings)

    monkeypatch.setattr(gathering, "open_model", opened)
    found = gather(check(str(tiny_qwen2_vl()), QUESTION, None, media["video"], [1.0], 6))
    assert asked == [{"nframe": 6}] and len(found.pictures) == 6
    assert len(found.guides[0].cuts[0].kept) == found.n_visual


def test_what_a_model_cannot_be_asked_is_one_sentence(media: dict[str, Path]) -> None:
    model = open_model(str(tiny_vila()), device="cpu", max_new_tokens=2)
    with pytest.raises(UserError, match="has <image> in it"):
        ask(model, check(str(tiny_vila()), "What is <image>?", media["image"], None))


def test_control_characters_are_replaced() -> None:
    assert printable(" a\x00b\x1b[31m\tc\nd\u2028e ") == "a\ufffdb\ufffd[31m c\nd\ufffde"
