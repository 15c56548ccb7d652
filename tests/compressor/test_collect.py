"""Collecting: what is answered right is kept with the tensors that the model gives, and nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.compressor import asking
from harness.compressor.collect import Collected, Options, collect, plan
from harness.compressor.dataset import TrainingSet
from harness.compressor.grading import Grader
from harness.compressor.sources import Sample
from harness.models import open_model
from harness.sweep.progress import Progress
from model_wrappers.errors import UserError
from model_wrappers.relevance.attention import prompt_first_layer_attention
from model_wrappers.relevance.streaming import prompt_relevance
from tests.compressor import published
from tests.scoring.conftest import LoopbackJudge, loopback  # noqa: F401  (a fixture)
from tests.tiny import tiny_llava_onevision, tiny_qwen2_vl
from tests.tiny_vila import tiny_vila

RELEVANCE = {"target": "logit", "clamp": True, "head_weights": "grad"}


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "open_model", lambda name, **settings: open_model(name, max_new_tokens=6, **settings))


@pytest.fixture(scope="session")
def qwen() -> Path:
    return tiny_qwen2_vl(seed=5)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that were answered, in order."""
    found: list[str] = []
    answer = asking.Asker._answer

    def watched(self: asking.Asker, sample: Sample, *others: Any) -> Any:
        found.append(sample.id)
        return answer(self, sample, *others)

    monkeypatch.setattr(asking.Asker, "_answer", watched)
    return found


@pytest.fixture
def right(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """As if the model had said the right answer to all but the samples in this set."""
    wrong: set[str] = set()
    grade = Grader.right
    monkeypatch.setattr(
        Grader, "right", lambda self, s, reply: grade(self, s, "nonsense" if s.id in wrong else s.answer)
    )
    return wrong


def run(model: Path, data: Path, out: Path, **options: Any) -> Collected:
    chosen = Options(str(model), data, out, **{"relevance": RELEVANCE, **options})
    return collect(chosen, *plan(chosen), Progress())


def replies(model: Path, data: Path, folder: Path) -> dict[str, str]:
    """What the model says to each sample."""
    run(model, data, folder)
    return {name: record["response"] for name, record in TrainingSet.open(folder).records.items()}


def test_right_answers_are_kept_and_wrong_ones_dropped(tmp_path: Path, qwen: Path, asked: list[str]) -> None:
    path = published.clips(tmp_path / "own.jsonl")
    said = replies(qwen, path, tmp_path / "first")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:3]:
        row["answer"] = said[f"own/{row['id']}"]
    published.jsonl(path, rows)
    done = run(qwen, path, tmp_path / "out")
    assert done.counts == {"asked": 4, "kept": 3, "wrong answer": 1} and not done.failures
    assert done.sources == {"own": (4, 3)}
    found = TrainingSet.open(tmp_path / "out")
    assert [pair.id for pair in found.pairs()] == ["own/q0", "own/q1", "own/q2"]
    assert found.records["own/q3"]["reason"] == "wrong answer"
    assert found.records["own/q3"]["answer"] == "red" and found.records["own/q3"]["response"] == said["own/q3"]
    assert found.manifest["model"]["settings"]["nframe"] == 8 and found.manifest["relevance"] == RELEVANCE


def test_the_tensors_are_those_of_the_prompt(tmp_path: Path, qwen: Path, right: set[str]) -> None:
    path = published.clips(tmp_path / "own.jsonl", 1)
    run(qwen, path, tmp_path / "out", relevance={**RELEVANCE, "target": "margin", "clamp": False})
    (pair,) = TrainingSet.open(tmp_path / "out").pairs()
    model = open_model(str(qwen), max_new_tokens=6, nframe=8, max_pixels=375 * 784, min_pixels=784)
    clip = str(tmp_path / "clips/0.mp4")
    prompt = model.prepare([{"type": "video", "value": clip}, {"type": "text", "value": "What is 0?"}])
    model.answer(prompt, "vanilla", 1.0)
    response = prompt.cache["response_ids"]
    response = response[:-1] if int(response[-1]) in model.model.generation_config.eos_token_id else response
    expected = prompt_relevance(model.model, prompt, response, target="margin", clamp=False)
    torch.testing.assert_close(pair.relevance, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(pair.attention, prompt_first_layer_attention(model.model, prompt))
    assert pair.grids == prompt.grids == [(4, 3, 4)] and len(pair.attention) == 48


LAYOUTS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "LLaVA-Video-178K": (lambda folder: published.llava_video(folder, 1), 16),
    "NExT-QA": (published.next_qa, 4),
    "its copy": (published.hub_nextqa, 1),
    "ActivityNet-QA": (published.activitynet, 2),
    "Infinity-MM": (published.infinity_mm, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout(tmp_path: Path, qwen: Path, right: set[str], layout: str) -> None:
    make, count = LAYOUTS[layout]
    done = run(qwen, make(tmp_path / "data"), tmp_path / "out")
    assert done.counts == {"asked": count, "kept": count}
    pairs = TrainingSet.open(tmp_path / "out").pairs()
    assert all(len(pair.attention) == len(pair.relevance) == sum(t * h * w for t, h, w in pair.grids) for pair in pairs)
    if layout == "Infinity-MM":
        assert len({pair.group for pair in pairs}) == 2  # of five pictures two are different, and no tar is a group


@pytest.mark.parametrize("family", [tiny_llava_onevision, tiny_vila])
@pytest.mark.parametrize("media", ["image", "video"])
def test_every_family(tmp_path: Path, right: set[str], family: Callable[..., Path], media: str) -> None:
    rows = [{media: f"m/{n}.{'png' if media == 'image' else 'mp4'}", "question": "?", "answer": "a"} for n in range(2)]
    path = published.jsonl(tmp_path / "own.jsonl", rows)
    folder = family() if family is tiny_llava_onevision else family(tmp_path / "vila")
    done = run(folder, path, tmp_path / "out", frames=4)
    assert done.counts == {"asked": 2, "kept": 2}
    found = TrainingSet.open(tmp_path / "out")
    tokens = {record["n_visual"] for record in found.records.values()}
    assert {record["media"] for record in found.records.values()} == {media}
    if family is tiny_vila:
        (tokens_of_one,) = {4 * n if media == "video" else n for n in (len(found.pairs()[0].attention),)}
        assert tokens == {tokens_of_one if media == "image" else tokens_of_one // 4}


def test_nothing_is_asked_twice(tmp_path: Path, qwen: Path, asked: list[str], right: set[str]) -> None:
    path = published.clips(tmp_path / "own.jsonl")
    right.add("own/q1")
    run(qwen, path, tmp_path / "out", limit=3)
    assert len(asked) == 3
    before = (tmp_path / "out/samples.jsonl").read_bytes()
    done = run(qwen, path, tmp_path / "out")
    assert len(asked) == 4 and set(asked) == {f"own/q{n}" for n in range(4)}
    assert (tmp_path / "out/samples.jsonl").read_bytes().startswith(before)
    assert done.counts == {"asked": 4, "kept": 3, "wrong answer": 1}
    run(qwen, path, tmp_path / "out")
    assert len(asked) == 4


def test_a_torn_line_is_asked_again(tmp_path: Path, qwen: Path, asked: list[str], right: set[str]) -> None:
    path = published.clips(tmp_path / "own.jsonl")
    run(qwen, path, tmp_path / "out")
    file = tmp_path / "out/samples.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    done = run(qwen, path, tmp_path / "out")
    assert asked[4:] == asked[3:4]
    assert done.counts == {"asked": 4, "kept": 4}


def test_a_failed_sample_is_told_and_the_run_goes_on(tmp_path: Path, qwen: Path, right: set[str]) -> None:
    path = published.clips(tmp_path / "own.jsonl", 3)
    whole = (tmp_path / "clips/1.mp4").read_bytes()
    (tmp_path / "clips/1.mp4").write_bytes(b"no video")
    done = run(qwen, path, tmp_path / "out")
    assert done.counts == {"asked": 3, "kept": 2, "failed": 1}
    assert list(done.failures) == ["own/q1"] and "1.mp4 cannot be decoded" in done.failures["own/q1"]
    assert TrainingSet.open(tmp_path / "out").records["own/q1"]["reason"].startswith("failed: The video")
    (tmp_path / "clips/1.mp4").write_bytes(whole)
    done = run(qwen, path, tmp_path / "out")  # mended, it is asked again
    assert done.counts == {"asked": 3, "kept": 3} and not done.failures


def test_longer_prompts_are_skipped_and_counted(tmp_path: Path, asked: list[str], right: set[str]) -> None:
    rows = [{"image": f"{n}.png", "question": "?", "answer": "a"} for n in range(2)]
    path = published.jsonl(tmp_path / "own.jsonl", rows)
    published.picture(tmp_path / "0.png", width=42, height=42)  # the whole, one tile and its newlines: 9 + 9 + 3
    published.picture(tmp_path / "1.png", width=126, height=42)  # of whose tile one row is no padding: 9 + 3 + 1
    done = run(tiny_llava_onevision(), path, tmp_path / "out", max_visual=15)
    assert done.counts == {"asked": 2, "kept": 1, "longer than 15 visual tokens": 1}
    records = TrainingSet.open(tmp_path / "out").records
    assert (records["own/1"]["n_visual"], records["own/1"]["response"]) == (21, None)
    assert (records["own/2"]["n_visual"], records["own/2"]["kept"]) == (13, True)


def test_other_settings_need_another_folder(tmp_path: Path, qwen: Path, asked: list[str]) -> None:
    path = published.clips(tmp_path / "own.jsonl", 1)
    run(qwen, path, tmp_path / "out")
    for changes, said in (
        ({"relevance": {**RELEVANCE, "clamp": False}}, "relevance.clamp was True and is False"),
        ({"max_visual": 100}, "max_visual was 1500|model.settings"),
        ({"seed": 3}, "seed was 0 and is 3"),
    ):
        with pytest.raises(UserError, match=said):
            run(qwen, path, tmp_path / "out", **changes)  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_method_cannot_be_asked(tmp_path: Path, qwen: Path) -> None:
    path = published.clips(tmp_path / "own.jsonl", 1)
    with pytest.raises(UserError, match="the uncompressed model is asked"):
        plan(Options(f"{qwen}+random@0.5", path, tmp_path / "out"))


def test_collecting_with_a_judge(tmp_path: Path, qwen: Path, loopback: LoopbackJudge) -> None:  # noqa: F811
    path = published.clips(tmp_path / "own.jsonl")
    loopback.reply = lambda payload: "{'pred': '%s', 'score': 4}" % ("no" if "What is 2?" in str(payload) else "yes")
    judge = loopback.config(tmp_path / "out/judge")
    done = run(qwen, path, tmp_path / "out", judge=judge)
    assert done.counts == {"asked": 4, "kept": 3, "wrong answer": 1}
    assert TrainingSet.open(tmp_path / "out").manifest["judge"] == {"base_url": loopback.url, "model": "test-judge"}
    assert "sk-very-secret" not in "".join(p.read_text("utf-8", "replace") for p in (tmp_path / "out").rglob("*.json*"))


def test_a_silent_judge_stops_the_run_and_loses_nothing(
    tmp_path: Path,
    qwen: Path,
    asked: list[str],
    loopback: LoopbackJudge,  # noqa: F811
) -> None:
    path = published.clips(tmp_path / "own.jsonl")
    loopback.reply = lambda payload: "{'pred': 'yes', 'score': 5}"
    loopback.script = [200, 200, 500, 500, 500, 500]
    judge = loopback.config(tmp_path / "out/judge")
    with pytest.raises(UserError, match="did not answer after 4 tries"):
        run(qwen, path, tmp_path / "out", judge=judge)
    assert len(TrainingSet.open(tmp_path / "out")) == 2
    assert run(qwen, path, tmp_path / "out", judge=judge).counts == {"asked": 4, "kept": 4}
    assert len(asked) == 5  # the one on which it fell silent is asked again
