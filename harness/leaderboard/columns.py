"""The columns of a leaderboard, left to right: what a machine reads and what a reader is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.leaderboard.entry import SCOPES, Benchmark, Entry, Leaderboard, Scope
from harness.tables.rows import BELOW, FLOORS, MISSING, ratio
from harness.tables.scored import KEY, mark

Value = str | int | float | None
_SCOPE_HEADERS = {"image": "Image (%)", "video": "Video (%)", "all": "All (%)"}


@dataclass(frozen=True)
class Column:
    """One column: `raw` for machines (shares in [0, 1], preservation in percent), `show` for readers.

    `about` explains the header. `main`: also in the short table that the command prints.
    """

    key: str
    header: str
    about: str
    raw: Callable[[Entry], Value]
    show: Callable[[Entry], str]
    numeric: bool = True
    main: bool = False


def columns(board: Leaderboard) -> list[Column]:
    """All columns of a leaderboard."""
    return [
        _number(
            "budget", "Budget (%)", "visual tokens an average layer works on, equal budgets as one", "budget", main=True
        ),
        _text("model", "Model", "", lambda entry: entry.model, main=True),
        _text("method", "Method", "", lambda entry: entry.method, lambda entry: entry.label, main=True),
        _text("fields", "Settings", "the method's own", _fields),
        Column(
            "retention",
            "Retention",
            "share of the visual tokens asked for",
            lambda entry: entry.retention,
            lambda entry: ratio(entry.retention),
            main=True,
        ),
        _share("realised", "Realised (%)", "share kept at the method's last cut", "realised"),
        _number(
            "rank",
            "Rank",
            "by All (%), among the model's entries of this budget and these benchmarks",
            "rank",
            main=True,
        ),
        _number(
            "mean_rank", "Mean rank", "of this method and retention over the models", "mean_rank", ".2f", main=True
        ),
        *(column for scope in SCOPES for column in _preservation(scope)),
        *(column for benchmark in board.benchmarks for column in _score(benchmark, _way(board, benchmark.name))),
        _number("parameters", "Parameters", "numbers in the checkpoint's files", "parameters", ",d"),
        _number(
            "equivalent_tokens",
            "Equivalent tokens",
            "visual tokens, mean over layers",
            "equivalent_tokens",
            ".1f",
            main=True,
        ),
        _share("layer_share", "Layers (%)", "of the visual tokens, what an average layer works on", "layer_share"),
        _share("kv_share", "KV share (%)", "of the visual tokens, mean over layers", "kv_share", main=True),
        _number(
            "tflops",
            "TFLOPs (paper)",
            "of the visual tokens, by the paper's eq. 4 to 6, the method's own included",
            "tflops",
            ".4g",
            main=True,
        ),
        _number("samples", "Samples", "asked, over all benchmarks", "samples"),
        _number("failures", "Failures", "samples that have no answer for a reason", "failures"),
        _text("run", "Run", "digest of the ids of its cells", lambda entry: entry.run),
        _text("date", "Date", "of the last answer, UTC", lambda entry: entry.date or ""),
        _text("versions", "Versions", "", _versions),
    ]


def _text(
    key: str,
    header: str,
    about: str,
    raw: Callable[[Entry], str],
    show: Callable[[Entry], str] | None = None,
    *,
    main: bool = False,
) -> Column:
    return Column(key, header, about, raw, show or raw, numeric=False, main=main)


def _number(key: str, header: str, about: str, field: str, form: str = "", *, main: bool = False) -> Column:
    def show(entry: Entry) -> str:
        value = getattr(entry, field)
        return "" if value is None else format(value, form)

    return Column(key, header, about, lambda entry: getattr(entry, field), show, main=main)


def _share(key: str, header: str, about: str, field: str, *, main: bool = False) -> Column:
    def show(entry: Entry) -> str:
        value = getattr(entry, field)
        return "" if value is None else f"{100 * value:.1f}"

    return Column(key, header, about, lambda entry: getattr(entry, field), show, main=main)


def _preservation(scope: Scope) -> list[Column]:
    """The value, which readers see with its interval and marks, and for machines the interval's ends, and 1 where it is
    below a floor.
    """

    def show(entry: Entry) -> str:
        found = entry.preservation[scope]
        if found.value is None:
            return ""
        inside = "" if found.low is None else f" [{found.low:.1f}, {found.high:.1f}]"
        below = f" {BELOW}{''.join(FLOORS[name] for name in found.below)}" if found.below else ""
        return f"{found.value:.1f}{inside}{below}"

    def below(floor: str) -> Callable[[Entry], Value]:
        return lambda entry: 1 if floor in entry.preservation[scope].below else None

    about = "mean over the benchmarks of score / score of vanilla, and its 95% interval"
    key = f"preservation_{scope}"
    return [
        Column(key, _SCOPE_HEADERS[scope], about, lambda e: e.preservation[scope].value, show, main=scope == "all"),
        Column(f"{key}_low", "", "", lambda e: e.preservation[scope].low, lambda e: ""),
        Column(f"{key}_high", "", "", lambda e: e.preservation[scope].high, lambda e: ""),
        *(Column(f"{key}_below_{floor}", "", "", below(floor), lambda e: "") for floor in FLOORS),
    ]


def _way(board: Leaderboard, benchmark: str) -> str:
    """By what a column is scored: one way in all entries that have a score, see `harness.leaderboard.gather`."""
    found = (entry.scores.get(benchmark) for entry in board.entries)
    return next((score.scored for score in found if score and score.value is not None), "")


def _score(benchmark: Benchmark, way: str) -> list[Column]:
    """The score, and for machines by what it was scored where there are several ways."""

    def raw(entry: Entry) -> Value:
        score = entry.scores.get(benchmark.name)
        if score is None:
            return None
        if score.value is not None:
            return score.value
        return f"incomplete ({score.answered} of {score.total})"

    def show(entry: Entry) -> str:
        value = raw(entry)
        return f"{value:.{benchmark.decimals}f}" if isinstance(value, float) else str(value or MISSING)

    header = benchmark.name + mark([way])
    found = [Column(benchmark.name, header, f"{benchmark.modality} benchmark", raw, show)]
    if way:
        found.append(Column(KEY + benchmark.name, "", "", lambda entry: way, lambda entry: "", numeric=False))
    return found


def _fields(entry: Entry) -> str:
    return " ".join(f"{name}={value}" for name, value in entry.fields.items() if value is not None)


def _versions(entry: Entry) -> str:
    return " ".join(f"{name}={version}" for name, version in entry.versions.items())
