"""Evaluation against a slow literal version, and the command."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from harness.cli import main
from harness.compressor.dataset import Pair
from harness.compressor.evaluate import CEILING, METRICS, OURS, RANDOM, evaluate, predictions, spearman
from harness.compressor.split import split
from harness.identity import file_digest, origin
from model_wrappers.compressor import Compressor
from tests.compressor.made import planted, written


def _net(mllm: str = "some-mllm") -> Compressor:
    torch.manual_seed(0)
    return Compressor(mllm, input_scale="mean")


def _with_ties() -> list[Pair]:
    pairs = planted(12, lengths=(5, 23), groups=6)
    coarse = [(pair.relevance * 20 / pair.relevance.max()).round() for pair in pairs]
    return [replace(pair, relevance=relevance) for pair, relevance in zip(pairs, coarse, strict=True)]


def _literal(scores: list[float], distribution: list[float], relevance: list[float]) -> dict[str, float]:
    n = len(relevance)
    by_relevance = sorted(range(n), key=lambda place: (-relevance[place], place))
    by_score = sorted(range(n), key=lambda place: (-scores[place], place))
    found = {"spearman": float(spearmanr(scores, relevance).statistic)}
    for keep in (0.5, 0.25, 0.1):
        k = max(1, math.floor(keep * n + 0.5))
        kept = by_score[:k]
        found[f"overlap@{keep:g}"] = sum(place in by_relevance[:k] for place in kept) / k
        found[f"mass@{keep:g}"] = sum(relevance[place] for place in kept) / sum(relevance)
    upper = by_relevance[: n - n // 2]
    total = sum(relevance[place] for place in upper)
    found["kl"] = 0.0
    for place in upper:
        if relevance[place] > 0:
            p, q = relevance[place] / total, distribution[place] / sum(distribution)
            found["kl"] += p * math.log(p / q)
    return found


def _drawn(pair: Pair) -> list[float]:
    seed = int.from_bytes(hashlib.sha256(f"0:{pair.id}".encode()).digest()[:8], "big")
    return torch.rand(len(pair.relevance), generator=torch.Generator().manual_seed(seed)).tolist()


def test_scores_are_those_of_a_literal_version() -> None:
    pairs, net = _with_ties(), _net()
    found = evaluate(net, pairs)
    assert found.samples == 12 and found.groups == 6
    expected: dict[str, list[dict[str, float]]] = {}
    for pair in pairs:
        with torch.no_grad():
            predicted = net(pair.attention[None])[0].tolist()
        drawn, relevance = _drawn(pair), pair.relevance.tolist()
        for name, scores, distribution in (
            (OURS, predicted, predicted),
            ("first_layer_attention", pair.attention.tolist(), pair.attention.tolist()),
            (RANDOM, drawn, [1.0] * len(drawn)),
            (CEILING, relevance, relevance),
        ):
            expected.setdefault(name, []).append(_literal(scores, distribution, relevance))
    assert found.scores.keys() == expected.keys()
    for name, rows in expected.items():
        for metric in METRICS:
            mean = sum(row[metric] for row in rows) / len(rows)
            assert found.scores[name][metric].value == pytest.approx(mean, rel=1e-4, abs=1e-5), (name, metric)
            if name in found.ahead:
                difference = found.scores[OURS][metric].value - mean
                assert found.ahead[name][metric].value == pytest.approx(difference, abs=1e-4)


def test_a_prediction_does_not_depend_on_the_batch() -> None:
    pairs, net = planted(20, lengths=(1, 40)), _net()
    with torch.no_grad():
        for pair, found in zip(pairs, predictions(net, pairs), strict=True):
            torch.testing.assert_close(found, net(pair.attention[None])[0])


def test_what_is_constant_has_no_order() -> None:
    assert spearman(torch.ones(5), torch.rand(5)) == 0 == spearman(torch.rand(1), torch.rand(1))


def test_intervals_draw_whole_groups() -> None:
    """The same numbers about fewer videos are known less well, and about fewer than ten not at all."""
    pairs = planted(120, lengths=(20, 20))
    widths = []
    for groups in (120, 12):
        tied = [replace(pair, group=f"{int(pair.id) * groups // 120}") for pair in pairs]
        # All questions about a video have the same answer: there is no more to learn from them than from one.
        same = [replace(tied[int(pair.id) // (120 // groups) * (120 // groups)], id=pair.id) for pair in pairs]
        score = evaluate(_net(), same).scores[OURS]["overlap@0.5"]
        assert score.interval is not None and score.interval.low < score.value < score.interval.high
        widths.append(score.interval.high - score.interval.low)
    assert widths[1] > 2 * widths[0]
    few = [replace(pair, group=f"{int(pair.id) % 9}") for pair in pairs]
    found = evaluate(_net(), few)
    assert found.scores[OURS]["kl"].interval is None and found.ahead[RANDOM]["kl"].interval is None


# The command.


def test_the_command_measures_the_held_out_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = planted(60)
    data, net = written(tmp_path / "data", pairs), _net()
    net.save_pretrained(tmp_path / "net")
    out = tmp_path / "out"
    asked = ["compressor", "evaluate", "--compressor", f"{tmp_path / 'net'}", "--data", f"{data}", "--out", f"{out}"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    content = json.loads((out / "some-mllm-video.json").read_text())
    wanted = evaluate(net, split(pairs)[1])
    assert content["scores"] == json.loads(json.dumps(wanted.content()["scores"]))
    assert content["samples"] == len(split(pairs)[1]) and content.items() >= origin().items()
    weights = file_digest(tmp_path / "net" / "model.safetensors")
    assert content["compressor"] == json.loads(json.dumps({**net.config(), "weights": weights}))
    page = (out / "some-mllm-video.md").read_text()
    assert page in shown
    for said in (
        "cnn (this compressor)",
        "first_layer_attention",
        "random",
        "Spearman",
        "keep 0.1",
        "retain compressor",
    ):
        assert said in page
    assert f"{100 * wanted.scores[OURS]['overlap@0.25'].value:.1f}%" in page


def test_the_command_takes_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_wrappers.compressor import hub

    _net().save_pretrained(tmp_path / "net")
    asked: list[str] = []

    def give(repository: str, revision: str | None, patterns: list[str]) -> Path:
        asked.append(repository)
        return tmp_path / "net"

    monkeypatch.setattr(hub, "download", give)
    hub._from_hub.cache_clear()
    try:
        command = ["compressor", "evaluate", "--compressor", "someone/net", "--data"]
        assert main([*command, f"{written(tmp_path / 'data', planted(20))}", "--out", f"{tmp_path / 'out'}"]) == 0
    finally:
        hub._from_hub.cache_clear()
    assert asked == ["someone/net"]


def test_another_models_samples_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _net("other-mllm").save_pretrained(tmp_path / "net")
    data = written(tmp_path / "data", planted(20))
    assert main(["compressor", "evaluate", "--compressor", f"{tmp_path / 'net'}", "--data", f"{data}"]) == 2
    said = capsys.readouterr().err
    assert "other-mllm's" in said and "some-mllm's" in said and said.count("\n") == 1


def test_samples_of_the_other_media_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or a compressor for videos would be measured on images under the title of videos."""
    _net().save_pretrained(tmp_path / "net")
    data = written(tmp_path / "data", planted(20), media="image")
    out = tmp_path / "out"
    asked = ["compressor", "evaluate", "--compressor", f"{tmp_path / 'net'}", "--data", f"{data}", "--out", f"{out}"]
    assert main(asked) == 2 and not out.exists()
    said = capsys.readouterr().err
    assert "is for video prompts" in said and "are of image prompts" in said and said.count("\n") == 1
