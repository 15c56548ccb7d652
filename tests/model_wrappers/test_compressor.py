"""The compressor: size and cost by hand, any length, padding, labels, loss, checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from model_wrappers import UserError, compress, encode
from model_wrappers.compressor import Compressor, hub, kl_loss, label
from model_wrappers.compressor.load import compressor_for
from model_wrappers.relevance import first_layer_attention
from tests.model_wrappers.conftest import IMAGE, VIDEO, Asker
from tests.model_wrappers.table import ONE_FAMILY, Family


def test_parameter_count_by_hand() -> None:
    depthwise = [1 * 3 + 1, 32 * 3 + 32, 64 * 3 + 64, 128 * 3 + 128, 256 * 3 + 256]  # 4, 128, 256, 512, 1024
    pointwise = [1 * 32 + 32, 32 * 64 + 64, 64 * 128 + 128, 128 * 256 + 256, 256 * 512 + 512]
    head = 512 * 1 + 1
    assert sum(depthwise) + sum(pointwise) + head == 177_541
    assert Compressor().n_parameters() == 177_541


def test_flops_are_the_papers() -> None:
    """Supplement: n = 1568 gives about 0.0003 T."""
    per_token = (3 + 32) + (96 + 2048) + (192 + 8192) + (384 + 32768) + (768 + 131072)
    assert Compressor().flops(1568) == 1568 * per_token
    assert round(Compressor().flops(1568) / 1e12, 4) == 0.0003


@pytest.mark.parametrize("scale", ["raw", "mean"])
@pytest.mark.parametrize("length", [1, 2, 144, 3000])
def test_any_length_gives_probabilities(scale: Any, length: int) -> None:
    net = Compressor(input_scale=scale)
    found = net(torch.rand(3, length))
    assert found.shape == (3, length) and (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3))


@pytest.mark.parametrize("scale", ["raw", "mean"])
def test_padding_of_a_batch_is_not_seen(scale: Any) -> None:
    torch.manual_seed(0)
    net = Compressor(input_scale=scale).double()
    short, long = torch.rand(1, 10).double(), torch.rand(1, 17).double()
    batch = torch.cat((torch.nn.functional.pad(short, (0, 7), value=5.0), long))
    mask = torch.arange(17) < torch.tensor([[10], [17]])
    found = net(batch, mask)
    torch.testing.assert_close(found[:1, :10], net(short))
    torch.testing.assert_close(found[1:], net(long))
    assert (found[0, 10:] == 0).all()
    torch.testing.assert_close(net.log_probabilities(batch, mask)[0, :10], net(short)[0].log())


def test_it_is_local() -> None:
    """Five convolutions of kernel 3 reach five tokens to each side."""
    torch.manual_seed(0)
    net = Compressor()
    values = torch.rand(1, 40)
    other = values.clone()
    other[0, 20] += 1.0
    moved = (net.logits(values) - net.logits(other)).abs()[0] > 0
    assert moved.nonzero().squeeze(1).tolist() == list(range(15, 26))


def test_mean_scale_does_not_depend_on_the_inputs_size() -> None:
    net, values = Compressor(input_scale="mean"), torch.rand(2, 30)
    torch.testing.assert_close(net(values), net(values * 1e-3))


def test_label_by_hand() -> None:
    found = label(torch.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 5.0, 5.0, 10.0]]))
    torch.testing.assert_close(found, torch.tensor([[4 / 7, 0, 3 / 7, 0], [0, 5 / 15, 0, 10 / 15]]))
    torch.testing.assert_close(label(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([0, 0.4, 0.6]))


@pytest.mark.parametrize(
    ("zeroed", "expected"),
    [
        (0, [4, 1, 3, 2, 0]),
        (0.25, [4, 1, 3, 2, 0]),
        (0.5, [4, 0, 3, 2, 0]),
        (0.75, [4, 0, 3, 0, 0]),
        (0.8, [1, 0, 0, 0, 0]),
    ],
)
def test_another_share_of_the_label_is_zero(zeroed: float, expected: list[float]) -> None:
    found = label(torch.tensor([4.0, 1.0, 3.0, 2.0, 0.0]), zeroed=zeroed)
    torch.testing.assert_close(found, torch.tensor(expected) / sum(expected))
    padded = label(torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0, 9.0]]), torch.arange(6)[None] < 5, zeroed=zeroed)
    torch.testing.assert_close(padded[0, :5], found)


@pytest.mark.parametrize("zeroed", [-0.1, 1.0])
def test_no_share_of_the_label(zeroed: float) -> None:
    with pytest.raises(ValueError, match="0 or more and below 1"):
        label(torch.ones(4), zeroed=zeroed)


def test_label_of_a_padded_batch() -> None:
    values = torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0, 9.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    found = label(values, mask)
    torch.testing.assert_close(found[0], torch.tensor([4 / 7, 0, 3 / 7, 0, 0, 0]))
    torch.testing.assert_close(found[1], torch.tensor([6 / 15, 5 / 15, 4 / 15, 0, 0, 0]))


@pytest.mark.parametrize("values", [[1.0, -0.1], [0.0, 0.0], [1.0, math.nan]])
def test_no_label(values: list[float]) -> None:
    with pytest.raises(ValueError, match="relevance"):
        label(torch.tensor([values]))


def test_loss_by_hand() -> None:
    target = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    prediction = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]])
    by_hand = (0.5 * math.log(2) + 0.0 + math.log(10)) / 2
    assert float(kl_loss(target, prediction.log())) == pytest.approx(by_hand, rel=1e-6)
    assert float(kl_loss(target, target.clamp_min(1e-30).log())) == pytest.approx(0.0, abs=1e-6)


def test_it_learns() -> None:
    """Adam brings the loss down on a label that its input decides; gradients are finite where the label is zero."""
    torch.manual_seed(0)
    net = Compressor(input_scale="mean")
    values = torch.rand(16, 24)
    target = label(values)
    optimizer = torch.optim.Adam(net.parameters())
    losses = []
    for _ in range(60):
        loss = kl_loss(target, net.log_probabilities(values))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# Checkpoints.


def test_round_trip(tmp_path: Path) -> None:
    net = Compressor("some-mllm", media="image", input_scale="mean")
    net.save_pretrained(tmp_path / "deep" / "er")
    back = Compressor.from_pretrained(tmp_path / "deep" / "er", "some-mllm")
    assert back.config() == net.config() and not back.training
    values = torch.rand(2, 9)
    assert torch.equal(back(values), net(values))
    assert json.loads((tmp_path / "deep" / "er" / "config.json").read_text())["mllm"] == "some-mllm"


def test_of_another_mllm_is_refused(tmp_path: Path) -> None:
    Compressor("some-mllm").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="some-mllm.*other-mllm"):
        Compressor.from_pretrained(tmp_path, "other-mllm")


def test_without_a_name_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name of the MLLM"):
        Compressor().save_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_broken_folder(tmp_path: Path, name: str, damage: str) -> None:
    Compressor("some-mllm").save_pretrained(tmp_path)
    file = tmp_path / name
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=name):
        Compressor.from_pretrained(tmp_path)


def test_a_hub_id_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Compressor("some-mllm").save_pretrained(tmp_path)
    asked = []

    def give(repository: str, revision: str | None, patterns: list[str]) -> Path:
        asked.append((repository, revision, sorted(patterns)))
        if repository != "someone/net":
            raise UserError("no such repository")
        return tmp_path

    monkeypatch.setattr(hub, "download", give)
    hub._from_hub.cache_clear()
    try:
        for _ in range(2):
            assert Compressor.from_pretrained("someone/net").mllm == "some-mllm"
        files = ["compressor-*/config.json", "compressor-*/model.safetensors", "config.json", "model.safetensors"]
        assert asked == [("someone/net", None, files)]
        with pytest.raises(UserError, match="someone/other.*no folder here.*no such repository"):
            Compressor.from_pretrained("someone/other")
        monkeypatch.chdir(tmp_path)
        Compressor("own-mllm").save_pretrained(tmp_path / "someone" / "net")
        assert Compressor.from_pretrained("someone/net").mllm == "own-mllm", "a folder goes first"
        for name in ("./someone/away", "away", "a/b/c", Path("someone/away")):
            with pytest.raises(UserError, match=r"has no config\.json"):
                Compressor.from_pretrained(name)
        assert len(asked) == 2
    finally:
        hub._from_hub.cache_clear()


# The method.


@pytest.mark.parametrize(("media", "parts"), [("image", IMAGE), ("video", VIDEO)])
def test_the_method_keeps_what_the_network_says(
    model: Any, folder: Path, ask: Asker, family: Family, media: str, parts: list[Any]
) -> None:
    inputs = ask(parts)
    media = "image" if family.video is None else media  # for lack of a video placeholder its prompts show images
    net = Compressor.from_pretrained(folder / f"compressor-{media}", folder.name)
    with torch.no_grad():
        scores = net(first_layer_attention(model, inputs)[None])[0]
    with compress(model, "cnn", keep=0.25) as compression:
        model.generate(**inputs, max_new_tokens=2)
    kept = compression.last[0].kept
    assert kept.tolist() == scores.topk(len(kept)).indices.sort().values.tolist()


@ONE_FAMILY
def test_what_a_prompt_shows_chooses_the_compressor(model: Any, folder: Path, ask: Asker) -> None:
    """A family's class may say that images are the frames of a video."""
    (prompt,) = encode(model, ask(IMAGE))
    found = [compressor_for(model, prompt, None).media]
    prompt.media = "video"
    found.append(compressor_for(model, prompt, None).media)
    assert found == ["image", "video"]


@ONE_FAMILY
def test_the_method_takes_a_folder_and_reads_it_anew(model: Any, ask: Asker, tmp_path: Path) -> None:
    answers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = Compressor("tiny-qwen2_vl", input_scale="mean")
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        net.save_pretrained(tmp_path)
        with compress(model, "cnn", keep=0.25, compressor=str(tmp_path)) as compression:
            model.generate(**ask(VIDEO), max_new_tokens=1)
        answers.append(compression.last[0].kept.tolist())
    assert answers[0] != answers[1]


def test_under_autocast_the_softmax_is_float32() -> None:
    net, values = Compressor(input_scale="mean"), torch.rand(2, 30)
    with torch.autocast("cpu", torch.bfloat16):
        logs = net.log_probabilities(values)
    assert logs.dtype == torch.float32
    torch.testing.assert_close(logs, net.log_probabilities(values), rtol=0.02, atol=0.02)


@ONE_FAMILY
def test_the_method_without_a_compressor(model: Any, ask: Asker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train one"), compress(model, "cnn", keep=0.5, compressor=str(tmp_path / "no")):
        model.generate(**ask(VIDEO), max_new_tokens=1)


@ONE_FAMILY
def test_the_method_with_another_models_compressor(model: Any, ask: Asker, tmp_path: Path) -> None:
    Compressor("LLaVA-OneVision").save_pretrained(tmp_path)
    with (
        pytest.raises(UserError, match="LLaVA-OneVision.*tiny-qwen2_vl"),
        compress(model, "cnn", keep=0.5, compressor=str(tmp_path)),
    ):
        model.generate(**ask(VIDEO), max_new_tokens=1)


@ONE_FAMILY
def test_scores_are_remembered_for_every_keep(model: Any, ask: Asker) -> None:
    from model_wrappers import generate
    from model_wrappers.registry import method

    (prompt,) = encode(model, ask(VIDEO))
    cnn = method("cnn")
    _, first = generate(model, prompt, cnn, 0.5, max_new_tokens=1)
    scores = prompt.cache[cnn]
    _, second = generate(model, prompt, cnn, 0.1, max_new_tokens=1)
    assert prompt.cache[cnn] is scores
    assert second.scoring_seconds == first.scoring_seconds > 0
    assert set(second.kept.tolist()) < set(first.kept.tolist())
