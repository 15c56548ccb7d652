"""Which patches a visual token is made of, in which order, and what the projector makes of them."""

from __future__ import annotations

import pytest
import torch

from model_wrappers.vila import VilaConfig, load_hub_layout
from model_wrappers.vila.projector import space_to_depth, token_places
from tests.tiny_vila import PATCH, tiny_vila
from tests.vila import reference


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 27])
def test_four_patches_become_one_vector(side: int, order: str) -> None:
    patches = torch.randn(2, side * side, 3, generator=torch.Generator().manual_seed(side))
    joined = space_to_depth(patches, order)
    assert torch.equal(joined, torch.stack([reference.cells(image, order) for image in patches]))


def test_an_odd_grid_gets_a_row_and_a_column_of_zeros() -> None:
    joined = space_to_depth(torch.arange(1.0, 10).reshape(1, 9, 1), "column")[0]
    # 1 2 3        column by column, and inside a cell upper left, upper right, lower left, lower right
    # 4 5 6
    # 7 8 9
    assert joined.tolist() == [[1, 2, 4, 5], [7, 8, 0, 0], [3, 0, 6, 0], [9, 0, 0, 0]]
    row_by_row = space_to_depth(torch.arange(1.0, 10).reshape(1, 9, 1), "row")[0]
    assert row_by_row.tolist() == [[1, 2, 4, 5], [3, 0, 6, 0], [7, 8, 0, 0], [9, 0, 0, 0]]


@pytest.mark.parametrize(("patches", "order"), [(8, "column"), (7, "column"), (7, "row")])
def test_features_are_those_of_the_parts(patches: int, order: str) -> None:
    """The hidden state before the tower's last layer, padded, joined, and through LayerNorm and exact GELU."""
    folder = tiny_vila(layout="hub", patches=patches, root={"token_order": order})
    model = load_hub_layout(folder)
    side = patches * PATCH
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.model.get_image_features(pixels, return_dict=True).pooler_output
    assert isinstance(ours, tuple) and len(ours) == 3
    for one, expected in zip(ours, reference.features(folder, pixels, order), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_projector_on_features_of_any_size(scale: float) -> None:
    """Small ones show LayerNorm's epsilon, which is 1e-5."""
    folder = tiny_vila(layout="hub", patches=7)
    patches = scale * torch.randn(2, 49, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_hub_layout(folder).model.multi_modal_projector(patches)
    for one, image in zip(ours, patches, strict=True):
        torch.testing.assert_close(one, reference.project(folder, image, "column"), rtol=1e-4, atol=1e-5)


def test_the_layer_is_the_configs() -> None:
    """-1 is what the last layer gives, without the norm behind it; -2 is not the same."""
    model = load_hub_layout(tiny_vila(layout="hub"))
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    chosen = {}
    for layer in (-1, -2):
        model.config.vision_feature_layer = layer
        with torch.no_grad():
            chosen[layer] = model.model.get_image_features(pixels, return_dict=True).pooler_output[0]
    tower = model.model.vision_tower
    with torch.no_grad():
        patches = tower.embeddings(pixels)
        for layer in tower.encoder.layers:
            patches = layer(patches, None)
        last = model.model.multi_modal_projector(patches)[0]
    torch.testing.assert_close(chosen[-1], last)
    assert not torch.allclose(chosen[-1], chosen[-2], atol=1e-2)


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize(("size", "patch"), [(64, 8), (56, 8), (30, 14), (384, 14)])
def test_places_are_those_of_the_patches_in_a_token(size: int, patch: int, order: str) -> None:
    """Patches that hold their own pixel's number: the smallest and largest in a token are its place."""
    config = VilaConfig(vision_config={"image_size": size, "patch_size": patch}, token_order=order)
    side = size // patch
    numbers = torch.arange(1, side * side + 1.0).reshape(1, -1, 1)
    places = token_places(config)
    assert places.shape == (config.n_image_tokens, 4)
    for token, place in zip(space_to_depth(numbers, order)[0], places, strict=True):
        inside = [int(number) - 1 for number in token if number]
        rows, columns = [n // side for n in inside], [n % side for n in inside]
        expected = [min(rows), max(rows) + 1, min(columns), max(columns) + 1]
        torch.testing.assert_close(place, torch.tensor(expected) * patch / size)


def test_the_published_size_gives_196_tokens() -> None:
    config = VilaConfig(vision_config={"image_size": 384, "patch_size": 14})
    assert (config.n_patches, config.n_cells, config.n_image_tokens) == (27, 14, 196)
