"""The shape of a multimodal model, and what its matrix products cost: the counting convention `exact`.

A product of [a, b] with [b, c] is 2abc operations: a multiply-add is two. Attention products are counted whole, without
the half that a causal mask hides, as torch's FLOP counter and an eager kernel do. Norms, activations, softmax, RoPE and
pooling are no matrix products. The distances between all pairs of n points in d dimensions, which clustering takes, are
counted as the product that would give them, 2nnd, whatever computes them. Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


def product(rows: float, inner: float, columns: float) -> float:
    """Operations of a product [rows, inner] x [inner, columns]."""
    return 2.0 * rows * inner * columns


@dataclass(frozen=True)
class Decoder:
    """A language model of grouped-query attention and gated FFNs.

    hidden: width of its states. ffn: width inside a FFN. heads, kv_heads, head_dim: of its attention. vocabulary: rows
    of its output head.
    """

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def query(self) -> int:
        """Width of all heads' queries together."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all heads' keys together, and of their values."""
        return self.kv_heads * self.head_dim

    def layer(self, rows: float, keys: float | None = None) -> float:
        """Operations of one layer on `rows` new tokens that look at `keys` tokens (None: at themselves)."""
        attention = 2 * product(rows, self.query, rows if keys is None else keys)
        return product(rows, self.hidden, self.query + 2 * self.key) + attention + self.after_attention(rows)

    def after_attention(self, rows: float) -> float:
        """Operations of one layer's output projection and FFN."""
        return product(rows, self.query, self.hidden) + 3 * product(rows, self.hidden, self.ffn)

    def forward(self, held: Sequence[float], others: float = 0.0) -> float:
        """Operations of all layers, of which the i-th works on `held[i]` visual tokens and on `others`."""
        return sum(self.layer(tokens + others) for tokens in held)

    def head(self, rows: float) -> float:
        """Operations of the output head on `rows` tokens; generate() asks it about the last one only."""
        return product(rows, self.hidden, self.vocabulary)

    def attention_rows(self, asking: float, length: float) -> float:
        """Operations of the attention of `asking` rows to `length` rows, computed beside a layer: queries, keys and
        logits.

        What `model_wrappers.relevance.attention.attention_rows` does.
        """
        keys = product(length, self.hidden, self.key)
        return product(asking, self.hidden, self.query) + keys + product(asking, self.query, length)

    def kv_numbers(self, tokens: float) -> float:
        """Numbers that the KV cache of one layer holds for `tokens` tokens."""
        return 2.0 * tokens * self.key


@dataclass(frozen=True)
class Tiling:
    """How LLaVA-OneVision lays an image out: the whole of it, squashed, then its tiles, with a newline a row of tokens.

    canvases: height and width in pixels, each of which the tiles may cover. tile: side of one in pixels. most: the
    number in ``anyres_max_9``.
    """

    canvases: tuple[tuple[int, int], ...]
    tile: int
    most: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles of an image of `size` (height, width) in pixels: of the canvas that shows most of
        its pixels, of these the smallest, as Hugging Face's `select_best_resolution` has it.
        """
        height, width = size

        def shown(canvas: tuple[int, int]) -> tuple[int, int]:
            scale = min(canvas[1] / width, canvas[0] / height)
            return min(int(width * scale) * int(height * scale), height * width), -canvas[0] * canvas[1]

        best = max(self.canvases, key=shown)
        return best[0] // self.tile, best[1] // self.tile

    def pictures(self, size: tuple[int, int]) -> int:
        """What the vision encoder sees of an image of `size`: the whole of it and its tiles."""
        rows, columns = self.grid(size)
        return 1 + rows * columns

    def tokens(self, size: tuple[int, int], side: int) -> int:
        """Visual tokens of an image of `size`, `side` x `side` in each tile: the length of `families.extents.anyres`,
        which says where they look.
        """
        height, width = size
        rows, columns = (count * side for count in self.grid(size))
        if width / height > columns / rows:  # what is only padding is taken off, the same on both sides
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        ratio = math.sqrt(rows * columns / (self.most * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        return side**2 + rows * (columns + 1)


@dataclass(frozen=True)
class Tower:
    """A vision encoder without grouped or gated parts, and the two products of the projector behind it.

    hidden, ffn, layers: of the encoder. patch: numbers in one patch. merged: patches behind one row of the projector.
    inside: width between the projector's products. patches: of each picture, where all pictures have one size; None
    where a picture has `merged` patches for each of its visual tokens. rows: of the projector for each picture of one
    size (it may work before tokens are pooled or cut off). heads: of the encoder's attention. tiling: of an image,
    where it is laid out in tiles.
    """

    hidden: int
    ffn: int
    layers: int
    patch: int
    merged: int
    inside: int
    patches: int | None = None
    rows: int = 0
    heads: int = 1
    tiling: Tiling | None = None

    def encoder(self, n_visual: float, pictures: int) -> float:
        """Operations of the encoder; each picture's patches look at one another."""
        patches = self._patches(n_visual, pictures)
        linear = product(patches, self.hidden, 4 * self.hidden) + 2 * product(patches, self.hidden, self.ffn)
        attention = 2 * product(patches, self.hidden, patches / pictures)
        return product(patches, self.patch, self.hidden) + self.layers * (linear + attention)

    def projector(self, n_visual: float, pictures: int, out: int) -> float:
        """Operations of the projector to states of width `out`."""
        rows = n_visual if self.patches is None else pictures * self.rows
        return product(rows, self.merged * self.hidden, self.inside) + product(rows, self.inside, out)

    def looked_into(self, n_visual: float, pictures: int) -> float:
        """Operations of one layer's queries, keys and logits, computed beside the encoder.

        What `model_wrappers.vision` does. Where pictures have any size (Qwen2-VL), values come out of the same product.
        """
        patches = self._patches(n_visual, pictures)
        projected = product(patches, self.hidden, (3 if self.patches is None else 2) * self.hidden)
        return projected + product(patches, self.hidden, patches / pictures)

    def frames(self, n_visual: int, pictures: int) -> int:
        """The pictures, or 1 where they are the tiles of one image: what a method that goes by frames sees.

        LLaVA-OneVision pools a video's frames and not an image's tiles, so their number of tokens tells them apart.
        """
        if self.merged > 1:
            return pictures
        pooled = pictures * ((math.isqrt(self.rows) + 1) // 2) ** 2
        return pictures if pooled <= n_visual <= pooled + 1 else 1

    def most(self, pictures: int) -> int | None:
        """The most visual tokens that so many pictures of one size give; None where a picture has any size.

        Where each patch is one (LLaVA-OneVision), there may be a newline behind each row of them.
        """
        newlines = math.isqrt(self.rows) if self.merged == 1 else 0
        return None if self.patches is None else pictures * (self.rows + newlines)

    def _patches(self, n_visual: float, pictures: int) -> float:
        return n_visual * self.merged if self.patches is None else pictures * self.patches


@dataclass(frozen=True)
class Shape:
    """A multimodal model: its decoder, its vision tower (None where nobody knows it), the bytes of one number, and its
    family (``model_type`` of its config.json).
    """

    decoder: Decoder
    tower: Tower | None = None
    number_bytes: int = 2
    family: str = ""

    def kv_bytes(self, held: Sequence[float]) -> int:
        """Bytes of a KV cache whose i-th layer holds `held[i]` tokens."""
        return round(sum(self.decoder.kv_numbers(tokens) for tokens in held) * self.number_bytes)


@dataclass(frozen=True)
class PromptSize:
    """How much there is to compute on, in tokens.

    visual: N_v. text: all others. instruction: those of the text after the last visual token. pictures: what the vision
    encoder sees apart from each other (images, tiles, frames, pairs of frames). response: tokens that are generated.
    media: what the prompt shows. size: height and width in pixels of the one image that it shows; None where nobody
    says. Only what an image in tiles is downsampled to depends on it.
    """

    visual: int
    text: int = 0
    instruction: int = 0
    pictures: int = 1
    response: int = 1
    media: Literal["image", "video"] = "image"
    size: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        """All tokens of the prompt."""
        return self.visual + self.text
