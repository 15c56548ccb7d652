"""Training: it learns, padding is not seen, a killed one goes on to the same weights, no video is on both sides."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.compressor import batches
from harness.compressor.batches import Samples, pairs_digest, teachable
from harness.compressor.dataset import Pair
from harness.compressor.evaluate import ATTENTION, KEEPS, OURS, OVERLAP, RANDOM, evaluate
from harness.compressor.split import held_out, split
from harness.compressor.state import State
from harness.compressor.train import Fitted, Settings, fit, key, mean_kl
from model_wrappers import UserError
from model_wrappers.compressor import Compressor, kl_loss
from tests.compressor.made import SMALL, planted
from tests.project.repository import ROOT

CPU = torch.device("cpu")
SHORT = replace(SMALL, epochs=4)


def trained(pairs: Sequence[Pair], settings: Settings = SHORT, state: State | None = None) -> Fitted:
    training, unseen = split(pairs)
    return fit(training, unseen, settings, mllm="m", media="video", state=state)


def same(one: Compressor, other: Compressor) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_it_learns_what_attention_does_not_say() -> None:
    pairs = planted(400)
    fitted = trained(pairs, SMALL)
    found = evaluate(fitted.net, split(pairs)[1])
    for keep in KEEPS:
        ours, rivals = found.scores[OURS], (found.scores[ATTENTION], found.scores[RANDOM])
        assert ours[OVERLAP[keep]].value > max(rival[OVERLAP[keep]].value for rival in rivals) + 0.15
    for rival in (ATTENTION, RANDOM):
        ahead = found.ahead[rival][OVERLAP[0.25]]
        assert ahead.interval is not None and ahead.interval.low > 0
    assert fitted.curves[-1].train_kl < 0.6 * fitted.curves[0].train_kl
    assert len(fitted.curves) == fitted.epoch == SMALL.epochs, "nothing stops it early unless it is asked to"


# Unequal lengths.


@pytest.mark.parametrize("scale", ["raw", "mean"])
@pytest.mark.parametrize("places", [1, 60, 10**6])
def test_a_padded_batch_has_the_loss_and_gradient_of_its_samples_one_by_one(scale: Any, places: int) -> None:
    pairs = planted(9, lengths=(3, 30))
    torch.manual_seed(0)
    net, alone = (Compressor(input_scale=scale, channels=(8, 16)) for _ in range(2))
    alone.load_state_dict(net.state_dict())
    samples = Samples(pairs)
    rows: list[int] = []
    for batch in samples.batches(range(9), CPU, places):
        assert batch.mask.numel() <= max(places, 30)
        (kl_loss(batch.target, net.log_probabilities(batch.attention, batch.mask)) * len(batch.rows) / 9).backward()
        rows += batch.rows
    assert sorted(rows) == list(range(9))
    total = torch.zeros(())
    for attention, target in zip(samples.attentions, samples.targets, strict=True):
        total = total + kl_loss(target[None], alone.log_probabilities(attention[None])) / 9
    total.backward()
    assert mean_kl(net, samples, CPU) == pytest.approx(float(total.detach()), rel=1e-5)
    for ours, theirs in zip(net.parameters(), alone.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_training_with_padding_is_training_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = planted(30, lengths=(3, 40))
    together = trained(pairs)
    monkeypatch.setattr(batches.Samples.batches, "__defaults__", (1,))  # every sample by itself
    alone = trained(pairs)
    for ours, theirs in zip(together.curves, alone.curves, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


# What a training depends on.


def test_the_seed_decides() -> None:
    pairs = planted(30)
    first, again, other = trained(pairs), trained(pairs), trained(pairs, replace(SHORT, seed=1))
    assert same(first.net, again.net) and first.curves == again.curves
    assert not same(first.net, other.net)


def test_the_processs_random_numbers_and_gradient_switch_are_left_alone() -> None:
    pairs = planted(30)
    wanted = trained(pairs)
    before = torch.get_rng_state()
    with torch.no_grad():  # as after `import vlmeval`
        found = trained(pairs)
        assert not torch.is_grad_enabled()
    assert same(found.net, wanted.net)
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_is_near_float32_and_its_weights_are_float32() -> None:
    pairs = planted(30)
    exact, coarse = trained(pairs), trained(pairs, replace(SHORT, precision="bf16"))
    assert not same(exact.net, coarse.net)
    assert {value.dtype for value in coarse.net.state_dict().values()} == {torch.float32}
    for ours, theirs in zip(coarse.curves, exact.curves, strict=True):
        assert ours == pytest.approx(theirs, rel=0.02)


def test_early_stopping_takes_the_best_weights() -> None:
    """What was learnt on planted samples is wrong for held-out ones of another kind: their loss soon goes up."""
    noise = [replace(pair, relevance=pair.relevance.flip(0)) for pair in planted(20, seed=5)]
    settings = replace(SMALL, epochs=300, patience=3)
    fitted = fit(planted(60), noise, settings, mllm="m", media="video")
    losses = [epoch.held_out_kl for epoch in fitted.curves]
    assert len(losses) < 300 and fitted.epoch == losses.index(min(losses)) + 1 == len(losses) - 3
    assert mean_kl(fitted.net, Samples(noise), CPU) == pytest.approx(min(losses), rel=1e-6)


def test_a_loss_that_is_no_number_ends_it() -> None:
    pairs = planted(12)
    pairs[3] = replace(pairs[3], attention=pairs[3].attention * math.inf)
    with pytest.raises(UserError, match="epoch 1 is no number"):
        trained(pairs)


def test_samples_without_a_label_are_left_out_and_negative_relevance_is_zero() -> None:
    pairs = planted(4)
    pairs[0] = replace(pairs[0], relevance=torch.zeros(5), attention=torch.ones(5))
    pairs[1] = replace(pairs[1], relevance=torch.tensor([-3.0, 1.0, 3.0, -1.0]), attention=torch.ones(4))
    assert [pair.id for pair in teachable(pairs)] == ["00001", "00002", "00003"]
    torch.testing.assert_close(Samples([pairs[1]]).targets[0], torch.tensor([0, 0.25, 0.75, 0]))


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"patience": 0}, {"input_scale": "log"}, {"precision": "fp16"}], ids=str
)
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changes))}.*allowed"):
        Settings(**changes)


# Stopping and going on.


class Stopped(State):
    """Ctrl-C after some epochs: after they were saved, or before."""

    def __init__(self, path: Path, key: Any, after: int, saves: bool) -> None:
        super().__init__(path, key)
        self.after, self.saves = after, saves

    def save(self, net: Any, optimiser: Any, curves: Any, best: Any) -> None:
        last = len(curves) == self.after
        if self.saves or not last:
            super().save(net, optimiser, curves, best)
        if last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("patience", [None, 50])
@pytest.mark.parametrize("saves", [True, False])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, patience: int | None, saves: bool) -> None:
    pairs, settings = planted(150), replace(SMALL, epochs=5, patience=patience)
    training, unseen = split(pairs)
    known = key(training, unseen, settings, "m", "video")
    with pytest.raises(KeyboardInterrupt):
        trained(pairs, settings, Stopped(tmp_path / "state.safetensors", known, 3, saves))
    resumed = trained(pairs, settings, State(tmp_path / "state.safetensors", known))
    whole = trained(pairs, settings)
    assert same(resumed.net, whole.net) and resumed.curves == whole.curves and resumed.epoch == whole.epoch


CHILD = """
from dataclasses import replace
from pathlib import Path
from harness.compressor.split import split
from harness.compressor.state import State
from harness.compressor.train import fit, key
from tests.compressor.made import SMALL, planted
training, unseen = split(planted(150))
settings = replace(SMALL, epochs=100_000)
known = {**key(training, unseen, settings, "m", "video"), "epochs": %d}
fit(training, unseen, settings, mllm="m", media="video", state=State(Path(%r), known))
"""


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    path, pairs = tmp_path / "state.safetensors", planted(150)
    training, unseen = split(pairs)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD % (SMALL.epochs, str(path))], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        while not path.is_file():
            assert child.poll() is None, "the child ended before it had kept an epoch"
            time.sleep(0.01)
        time.sleep(0.2)  # to be met anywhere in a later epoch, or while it is saved
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = len(State(path, key(training, unseen, SMALL, "m", "video")).restore(*_parts())[0])
    assert 0 < done, "an epoch was kept whole"
    settings = replace(SMALL, epochs=done + 2)
    known = key(training, unseen, SMALL, "m", "video")
    resumed = trained(pairs, settings, State(path, known))
    assert same(resumed.net, trained(pairs, settings).net)


def _parts() -> tuple[Compressor, torch.optim.Optimizer]:
    net = Compressor("m", channels=SMALL.channels, input_scale="mean")
    return net, torch.optim.Adam(net.parameters())


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    pairs = planted(30)
    training, unseen = split(pairs)
    with pytest.raises(KeyboardInterrupt):
        trained(pairs, SHORT, Stopped(path, key(training, unseen, SHORT, "m", "video"), 2, True))
    other = key(training, unseen, replace(SHORT, seed=3), "m", "video")
    with pytest.raises(UserError, match=r"another training \(seed differ"):
        trained(pairs, replace(SHORT, seed=3), State(path, other))
    anew = trained(pairs, replace(SHORT, seed=3), State(path, other, anew=True))
    assert same(anew.net, trained(pairs, replace(SHORT, seed=3)).net)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="no state of a training"):
        trained(pairs, SHORT, State(path, other))


def test_another_number_anywhere_is_another_training() -> None:
    pairs = planted(3)
    moved = [*pairs[:2], replace(pairs[2], relevance=pairs[2].relevance + 1e-6)]
    assert pairs_digest(pairs) == pairs_digest(planted(3)) != pairs_digest(moved)
    assert pairs_digest(pairs) != pairs_digest([*pairs[:2], replace(pairs[2], group="another")])


# The held-out side.


def test_no_group_is_on_both_sides_and_a_tenth_is_held_out() -> None:
    training, unseen = split(planted(3000, lengths=(2, 3), groups=1000))
    assert not {pair.group for pair in training} & {pair.group for pair in unseen}
    assert len(training) + len(unseen) == 3000
    assert 70 <= len({pair.group for pair in unseen}) <= 130


def test_more_samples_move_no_group() -> None:
    few, many = (split(planted(count, lengths=(2, 3))) for count in (100, 200))
    assert {pair.group for pair in few[1]} <= {pair.group for pair in many[1]}
    assert {pair.group for pair in few[0]} <= {pair.group for pair in many[0]}


@pytest.mark.parametrize("side", [True, False])
def test_of_few_groups_one_is_held_out_and_one_is_not(side: bool) -> None:
    names = [name for name in (f"video {number}" for number in range(500)) if held_out(name) == side][:2]
    pairs = [replace(pair, group=names[number % 2]) for number, pair in enumerate(planted(6))]
    training, unseen = split(pairs)
    assert len({pair.group for pair in training}) == len({pair.group for pair in unseen}) == 1
    with pytest.raises(UserError, match="6 samples about 1 videos"):
        split([replace(pair, group="one") for pair in pairs])
