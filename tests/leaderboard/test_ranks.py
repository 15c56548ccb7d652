"""Which entries share a budget, who is better within it, and the order of the whole."""

from __future__ import annotations

from typing import Any

from harness.leaderboard.ranks import ranked
from tests.leaderboard.boards import entry


def table(entries: list[Any]) -> list[tuple[Any, ...]]:
    return [(each.model, each.method, each.retention, each.budget, each.rank, each.mean_rank) for each in entries]


def test_methods_are_ranked_at_what_they_hold_not_at_what_was_asked() -> None:
    """FastV at 25% holds half of the tokens in its layers: it meets the others' 50%."""
    found = ranked(
        [
            entry(method="cnn", keep=0.25, value=88),
            entry(method="vanilla", keep=1.0, value=100),
            entry(method="fastv", keep=0.25, share=0.505, value=70),
            entry(method="cnn", keep=0.5, share=0.497, value=95),
            entry(method="random", keep=0.5, value=96),
        ]
    )
    assert table(found) == [
        ("m", "vanilla", 1.0, 100, None, None),
        ("m", "random", 0.5, 50, 1, 1.0),
        ("m", "cnn", 0.5, 50, 2, 2.0),
        ("m", "fastv", 0.25, 50, 3, 3.0),
        ("m", "cnn", 0.25, 25, 1, 1.0),
    ]


def test_mean_rank_is_over_models_and_ranks_are_within_one() -> None:
    found = ranked(
        [
            entry("a", "cnn", value=90),
            entry("a", "random", value=80),
            entry("a", "uniform", value=85),
            entry("b", "cnn", value=60),
            entry("b", "random", value=70),
            entry("b", "cnn", value=65, fields={"compressor": "mine"}),
        ]
    )
    ranks = {(each.model, each.method, bool(each.fields)): (each.rank, each.mean_rank) for each in found}
    assert ranks == {
        ("a", "cnn", False): (1, 2.0),
        ("b", "cnn", False): (3, 2.0),
        ("a", "random", False): (3, 2.0),
        ("b", "random", False): (1, 2.0),
        ("a", "uniform", False): (2, 2.0),
        ("b", "cnn", True): (2, 2.0),
    }
    assert [each.preservation["all"].value for each in found] == [90, 85, 80, 70, 65, 60]


def test_equal_ones_share_a_rank() -> None:
    found = ranked([entry(method="a", value=9), entry(method="b", value=9), entry(method="c", value=8)])
    assert [each.rank for each in found] == [1, 1, 3]


def test_bounds_and_incomplete_ones_have_no_rank_and_take_none() -> None:
    found = ranked(
        [
            entry(method="relevance", value=None),
            entry(method="oracle", value=99),
            entry(method="cnn", value=50),
            entry(method="anti-oracle", value=60),
            entry(method="broken", value=None, layer_share=None),
        ]
    )
    assert [(each.method, each.budget, each.rank) for each in found] == [
        ("oracle", 25, None),
        ("anti-oracle", 25, None),
        ("cnn", 25, 1),
        ("relevance", 25, None),
        ("broken", None, None),
    ]


def test_only_entries_over_the_same_benchmarks_are_compared() -> None:
    found = ranked([entry(method="a", value=9), entry(method="b", value=8, scores={"MME": 1.0})])
    assert [each.rank for each in found] == [1, 1]


def test_a_budget_reaches_two_points_down_from_its_first_and_no_further() -> None:
    shares = [0.12, 0.111, 0.1, 0.097, 0.0799]
    found = ranked([entry(method=str(share), share=share) for share in shares])
    assert {each.method: each.budget for each in found} == {"0.12": 11, "0.111": 11, "0.1": 11, "0.097": 9, "0.0799": 9}
