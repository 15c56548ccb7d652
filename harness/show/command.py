"""The command `retain show`. Importing it loads nothing that it needs only when it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.closing import braced
from harness.disk import check_folder
from harness.options import DEFAULT_STORE


def show(
    model: Annotated[str, typer.Option(help="a model's name (see `retain list`) or checkpoint folder")],
    question: Annotated[str, typer.Option(help="what it is asked")],
    image: Annotated[Path | None, typer.Option(help="a picture to ask about, or")] = None,
    video: Annotated[Path | None, typer.Option(help="a video")] = None,
    keep: Annotated[
        list[float] | None, typer.Option(help="shares of the visual tokens to keep (default: 0.5 0.25)")
    ] = None,
    keeps: Annotated[
        list[float] | None, typer.Argument(metavar="KEEP", help="more shares, as in --keep 0.5 0.25")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="frames of the video (default: the model's setting)")] = None,
    out: Annotated[Path, typer.Option(help="folder of the PNG and the page")] = DEFAULT_STORE / "show",
) -> None:
    """Draw what a model looks at in a picture or video, and what it answers from the tokens that are kept."""
    from harness.show.request import check

    request = check(model, question, image, video, [*(keep or ()), *(keeps or ())], frames)
    check_folder(out, "--out")

    from harness.show.draw import draw
    from harness.show.gather import gather
    from harness.show.page import write

    print(f"Written: {braced(write(draw(gather(request)), out))}")
