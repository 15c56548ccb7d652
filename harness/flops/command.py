"""The command `retain flops`. Importing it loads nothing that it needs only when it counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from harness.options import check_keeps
from model_wrappers.errors import UserError

DEFAULT_KEEPS = (0.5, 0.25, 0.1)


def flops(
    model: Annotated[
        str, typer.Option(help="a model's name (see `retain list`), hub id, or folder with a config.json; no weights")
    ],
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]...", help="such as cnn, fastv:layer=2 or fastv@0.4 (default: all)"),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="visual tokens of the prompt")] = None,
    keep: Annotated[
        list[float] | None,
        typer.Option(help="share of the visual tokens to keep, can be repeated (default: 0.5, 0.25 and 0.1)"),
    ] = None,
    media: Annotated[Literal["image", "video"], typer.Option(help="what the prompt shows")] = "image",
    pictures: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="what the vision encoder sees apart: tiles, frames, pairs of frames (1)"),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="pixels of an image that the model lays out in tiles, such as 384x512, in the place of "
            "--tokens and --pictures",
        ),
    ] = None,
    text: Annotated[
        int, typer.Option(min=0, metavar="N", help="text tokens of the prompt, all taken to follow the visual ones")
    ] = 64,
    response: Annotated[
        int, typer.Option(min=1, metavar="N", help="tokens of the answer that `relevance` explains")
    ] = 8,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Count what methods cost in FLOPs, by the paper's convention and exactly, and what their KV caches hold."""
    from harness.flops.report import report, to_json, to_markdown
    from harness.flops.shapes import of_size
    from model_wrappers.registry import method_names
    from model_wrappers.shape import PromptSize

    check_keeps(keep or ())
    if size is not None:
        if tokens is not None or pictures is not None or media != "image":
            raise UserError(f"--size {size} is an image's and tells its tokens: without --tokens, --pictures, --media")
        prompt = of_size(model, size)
    elif tokens is None:
        raise UserError("say how large the prompt is: --tokens, or --size of an image that the model lays out in tiles")
    else:
        prompt = PromptSize(tokens, pictures=pictures or 1, media=media)
    prompt = replace(prompt, text=text, instruction=text, response=response)
    found = report(model, prompt, methods or method_names(), keep or DEFAULT_KEEPS)
    print(to_json(found) if json else to_markdown(found), end="")
