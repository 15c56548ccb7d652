"""Shards: everything is dealt once, the last ones are short, and a worker keeps its model."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sweep.shards import LARGEST, Group, Pile, Shard, Wanted

ANY = st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), st.integers(0, 40), min_size=1)


def pile(sizes: dict[Group, int], cells: int = 3) -> Pile:
    """So many samples of each group, each lacking `cells` answers."""
    names = tuple(f"cell {number}" for number in range(cells))
    return Pile(
        {group: size * cells for group, size in sizes.items()},
        lambda group: dict.fromkeys(range(sizes[group]), names),
    )


def dealt(left: Pile, count: int) -> list[Shard]:
    """What `count` workers that take turns are dealt."""
    held: list[Group | None] = [None] * count
    shards: list[Shard] = []
    while left:
        turn = len(shards) % count
        others = Counter(group for number, group in enumerate(held) if group and number != turn)
        shard = left.deal(held[turn], others, count, lambda _: True)
        assert shard
        held[turn] = shard.group
        shards.append(shard)
    return shards


@given(sizes=ANY, count=st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_every_sample_is_dealt_once(sizes: dict[Group, int], count: int) -> None:
    found = Counter((shard.group, index) for shard in dealt(pile(sizes), count) for index in shard.wanted)
    assert found == Counter((group, index) for group, size in sizes.items() for index in range(size))


def test_the_end_is_not_one_long_shard_and_the_beginning_no_short_one() -> None:
    lengths = [len(shard.wanted) for shard in dealt(pile({("m", "x"): 2000}), 8)]
    assert lengths[0] == 2000 // 32 + 1 and max(lengths) <= LARGEST
    assert lengths == sorted(lengths, reverse=True) and lengths[-8:] == [1] * 8
    assert len(lengths) < 2000 / 8


def test_a_worker_keeps_its_model_and_benchmark_while_there_is_work() -> None:
    left = pile({("a", "x"): 8, ("a", "y"): 20, ("b", "x"): 500})
    shard = left.deal(("a", "x"), Counter(), 2, lambda _: True)
    assert shard and shard.group == ("a", "x")
    while left.has(("a", "x")):
        left.deal(("a", "x"), Counter(), 2, lambda _: True)
    shard = left.deal(("a", "x"), Counter(), 2, lambda _: True)
    assert shard and shard.group == ("a", "y"), "another benchmark of its model"
    assert left.deal(("c", "x"), Counter(), 2, lambda _: False) is None, "no model is worth opening"


def test_workers_spread_over_models_and_benchmarks() -> None:
    left = pile({("a", "x"): 500, ("a", "y"): 500, ("b", "x"): 500, ("b", "y"): 500})
    held: Counter[Group] = Counter()
    for _ in range(4):
        shard = left.deal(None, held, 4, lambda _: True)
        assert shard
        held[shard.group] += 1
    assert set(held.values()) == {1}


def test_what_a_dead_worker_left_comes_back_in_halves_and_first() -> None:
    left = pile({("a", "x"): 3, ("a", "y"): 3})
    wanted: Wanted = dict.fromkeys((7, 8, 9), ("cell 0",))
    left.put_back(Shard("a", "y", wanted))
    assert left.has(("a", "y")) and left.left("a") == 3 * 3 * 2 + 3
    first, second = (left.deal(None, Counter(), 2, lambda _: True) for _ in range(2))
    assert first and list(first.wanted) == [7, 8] and first.deaths == 1
    assert second and list(second.wanted) == [9] and second.deaths == 1
    assert left.drop("b") == [] and left.drop("a") == [("a", "x"), ("a", "y")] and not left


def test_a_group_that_another_run_finished_is_passed_over() -> None:
    left = Pile({("a", "x"): 6, ("a", "y"): 1}, lambda group: {} if group[1] == "x" else {0: ("cell 0",)})
    shard = left.deal(None, Counter(), 2, lambda _: True)
    assert shard and shard.group == ("a", "y") and not left
    empty = Pile({("a", "x"): 6}, lambda _: {})
    assert empty.deal(None, Counter(), 2, lambda _: True) is None and not empty
