"""Scenes and questions: what is asked is true, evidence is where it should be, and the splits cannot meet."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.micro.questions import DOMAINS, TEMPORAL, TOPICS, questions, region
from harness.micro.scenes import CELL, COLORS, KINDS, Scene, _masks, render, sample_scene


def _scenes(count: int, **wanted: bool) -> list[Scene]:
    rng = np.random.default_rng(5)
    return [sample_scene(rng, **wanted) for _ in range(count)]


def test_a_scene_is_in_one_split_whatever_its_order_or_noise() -> None:
    for scene in _scenes(60, video=True, held_out=True):
        assert scene.held_out
        shuffled = dataclasses.replace(scene, things=scene.things[::-1])
        assert shuffled.digest == scene.digest and shuffled.held_out
    assert not any(scene.held_out for scene in _scenes(60, video=True, held_out=False))
    assert not any(scene.held_out for scene in _scenes(20, video=False, held_out=False))


def test_the_splits_share_no_scene() -> None:
    trained = {scene.digest for scene in _scenes(2000, video=True, held_out=False)}
    tested = {scene.digest for scene in _scenes(300, video=True, held_out=True)}
    assert len(tested) > 250 and not trained & tested


@pytest.mark.parametrize("video", [True, False])
def test_only_the_cells_of_sights_are_drawn_on(video: bool) -> None:
    for scene in _scenes(20, video=video, held_out=False):
        frames = render(scene, np.random.default_rng(1))
        assert frames.shape == (scene.segments, scene.side * CELL, scene.side * CELL, 3)
        cells = frames.reshape(scene.segments, scene.side, CELL, scene.side, CELL, 3)
        flat = cells.max(axis=(2, 4)).astype(int) - cells.min(axis=(2, 4)).astype(int)
        drawn = {tuple(int(v) for v in place) for place in np.argwhere(flat.max(axis=-1) > 0)}
        assert drawn == {(s.segment, s.row, s.col) for s in scene.sights}


def test_the_kinds_can_be_told_apart() -> None:
    for index, kind in enumerate(KINDS):
        for other in KINDS[:index]:
            closest = min(abs(a - b).mean() for a in _masks(kind) for b in _masks(other))
            assert closest > 0.03, (kind, other)
    assert len({tuple(ink) for ink in COLORS.values()}) == len(COLORS)


def test_answers_and_evidence_are_what_the_scene_shows() -> None:
    rng = np.random.default_rng(2)
    seen = set()
    for scene in _scenes(60, video=True, held_out=True):
        for question in questions(scene, rng):
            seen.add(question.topic)
            assert question.answer in DOMAINS[TOPICS[question.topic]]
            assert set(question.evidence) <= set(scene.sights)
            first, last = question.evidence[0], question.evidence[-1]
            subject = question.text.split()
            match question.topic:
                case "color" | "before":
                    assert question.answer == first.color and first.kind in subject
                case "after":
                    assert question.answer == last.color and first.color != last.color
                case "kind":
                    assert {s.kind for s in scene.sights if s.color == subject[-1]} == {question.answer}
                case "where":
                    assert question.answer == region(first, scene.side) == region(last, scene.side)
                case "when":
                    assert question.answer == ("first", "second", "third", "fourth")[first.segment]
                case "motion":
                    down, right = last.row - first.row, last.col - first.col
                    moved = {"left": right < 0, "right": right > 0, "up": down < 0, "down": down > 0}
                    assert moved[question.answer] and (down == 0) != (right == 0)
                case "yesno":
                    assert question.answer == ("yes" if subject[-1] == first.color else "no")
            for count in (4, 5):
                options = question.options(rng, count) if question.topic != "yesno" else [question.answer]
                assert len(set(options)) == len(options) and question.answer in options
    assert seen == set(TOPICS) and TEMPORAL < seen
