"""The figure of measurements: what its axes say."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.efficiency.plot import _speed


def test_the_axis_of_speed_is_labelled_below_1_too() -> None:
    axes = Figure().subplots()
    found = {"median": 0.5, "low": 0.15, "high": 6.0}
    _speed(axes, [{"vanilla_over_this": {"llm": found}, "flops_ratio": None}])
    axes.set_xlim(0.1, 10)
    minor = axes.xaxis.get_minor_formatter()
    ticks = {f"{value:g}": minor(value) for value in axes.xaxis.get_minorticklocs()}
    shown = {name for name, label in ticks.items() if label and 0.1 < float(name) < 10}
    assert shown == {"0.2", "0.5", "2", "5"} and all(ticks[name] == name for name in shown)
