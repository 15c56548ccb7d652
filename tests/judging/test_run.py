"""`retain run` with judges: a limit, a judge that is down, the same command again; marks, costs, no key anywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import yaml

from harness import plan as plans
from harness.cli import main
from harness.experiments import load
from harness.judging.estimate import estimate
from harness.plan import Data
from harness.store import Answer, Store
from tests.benchmarks import layouts
from tests.scoring.conftest import KEY, LoopbackJudge, loopback
from tests.scoring.test_mmvet import rate
from tests.sweep.conftest import SMALL
from tests.tiny import tiny_qwen2_vl

__all__ = ["loopback"]
BENCHMARKS = ["MMVet", "MMStar"]
ROWS: list[dict[str, Any]] = [{"method": "vanilla"}, {"method": "random", "keep": [0.5]}]
CALL = 0.01003
"""US dollars, 1000 x $10 + 1 x $30 for a million."""


class Answered:
    """A store with an answer to every sample of a small experiment whose MMVet the loopback judge scores."""

    def __init__(self, folder: Path, judge: LoopbackJudge, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.judge, self.capfd = folder, judge, capfd
        self.store = Store(folder / "runs")
        layouts.mmvet(folder / "data")
        layouts.mmstar(folder / "data")
        judge.reply, judge.usage = rate, {"prompt_tokens": 1000, "completion_tokens": 1}
        price = {"prompt": 10, "completion": 30}
        self.path = self.write("judged", {"base_url": judge.url, "model": "m", "key_env": "OPENAI_API_KEY"}, price)
        chosen = load(self.path, "paper")
        self.data = Data(chosen, folder / "data")
        self.plan = plans.make(chosen, self.data, self.store)
        for cell in self.plan.cells:
            with self.store.cell(cell.settings).open() as writer:
                for index in self.plan.samples[cell.benchmark]:
                    said = f"answer {index} of {cell.settings['method']['name']}"
                    if str(index).endswith("_0"):
                        said = "the same in both cells"
                    writer.append(Answer(index, said if cell.benchmark == "MMVet" else "B", None, 4, 4, [4] * 6))

    def write(self, name: str, judge: Any, price: dict[str, float] | None = None) -> Path:
        """An experiment over the same answers."""
        checkpoint = str(tiny_qwen2_vl(seed=5))
        profile = {
            "models": [checkpoint],
            "frames": 8,
            "model_settings": {checkpoint: SMALL},
            "judges": {"MMVet": {**judge, "price": price} if price else judge},
            "rows": ROWS,
        }
        content = {"name": name, "title": name, "benchmarks": BENCHMARKS, "profiles": {"paper": profile}}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def __call__(self, command: str = "run", *options: object, path: Path | None = None) -> tuple[int, str, str]:
        """The command's status, standard output and standard error."""
        self.capfd.readouterr()
        where = ["--profile", "paper", "--data", self.folder / "data", "--store", self.store.root]
        status = main([str(part) for part in (command, path or self.path, *where, *options)])
        out, err = self.capfd.readouterr()
        assert "Traceback" not in out + err and KEY not in out + err
        return status, out, err

    def table(self, suffix: str, name: str = "judged") -> Path:
        """A file of a table."""
        return self.store.root / "tables" / f"{name}.{suffix}"

    def judging(self) -> dict[str, Any]:
        """What was written of the judges."""
        found: dict[str, Any] = json.loads(self.table("judging.json").read_text())
        return found

    def lines(self) -> list[dict[str, str]]:
        """The table's rows."""
        return list(csv.DictReader(self.table("csv").open()))

    def unlimited(self) -> list[dict[str, Any]]:
        """What the judge is asked when there is no limit; forgotten afterwards."""
        assert self()[0] == 0
        requests = list(self.judge.requests)
        self.judge.requests.clear()
        for path in [*(self.store.root / "judge").glob("*.jsonl"), *(self.store.root / "scores").glob("*.json")]:
            path.unlink()
        return requests


@pytest.fixture
def answered(tmp_path: Path, loopback: LoopbackJudge, capfd: pytest.CaptureFixture[str]) -> Answered:
    return Answered(tmp_path, loopback, capfd)


def test_all_is_judged_told_marked_and_kept(answered: Answered) -> None:
    status, out, err = answered()
    assert (status, len(answered.judge.requests)) == (0, 7), err  # eight answers, two of them the same
    assert "MMVet, judged by m: 7 calls, 7,000 + 7 tokens, $0.0702, 1 remembered" in out
    assert "All judging of judged paper so far: 7 calls, 7,000 + 7 tokens, $0.0702" in out
    found = answered.judging()
    sums = {
        "calls": 7,
        "prompt_tokens": 7000,
        "completion_tokens": 7,
        "calls_of_unknown_tokens": 0,
        "usd": pytest.approx(7 * CALL),
        "calls_of_unknown_price": 0,
        "usd_of_unknown_tokens_at_most": 0,
    }
    assert found["benchmarks"]["MMVet"]["this_run"] == found["in_all"] == sums
    price = {"prompt": 10.0, "completion": 30.0, "source": "the experiment", "date": ""}
    assert found["benchmarks"]["MMVet"]["price_per_million_tokens"] == price
    assert [(line["scored:MMVet"], "scored:MMStar" in line) for line in answered.lines()] == [("judge m", False)] * 2
    assert "| MMVet (judged) | MMStar |" in out and "MMVet (judged) & MMStar" in answered.table("tex").read_text()
    heads = [cell.value for cell in openpyxl.load_workbook(answered.table("xlsx"))["table"][1]]
    assert {"MMVet (judged)", "MMStar", "MMVet scored by"} <= set(heads)
    # Again: nothing is asked, and the sums of all runs stay.
    assert answered()[0] == 0 and len(answered.judge.requests) == 7
    assert answered.judging()["this_run"]["calls"] == 0 and answered.judging()["in_all"] == sums
    # Nothing but the request's header has the key.
    assert all(headers["Authorization"].endswith(KEY) for headers in answered.judge.headers)
    written = [path.read_bytes() for path in answered.store.root.rglob("*") if path.is_file()]
    assert written and not any(KEY.encode() in content for content in written)


def test_a_limit_stops_before_it_is_crossed_and_a_higher_one_goes_on(answered: Answered) -> None:
    requests = answered.unlimited()
    size = max(len(message["content"].encode()) for request in requests for message in request["messages"])
    most = (size + 16) * 10e-6 + 3 * 30e-6  # in advance: a token a byte, and the longest reply
    limit = 3 * CALL + most
    status, out, err = answered("run", "--judge-limit", limit)
    asked = len(answered.judge.requests)
    assert status == 3 and 3 < asked < 7 and answered.judging()["in_all"]["usd"] <= limit
    assert "retain: not all is judged: the judge m is asked no more: the limit of $" in err
    assert "incomplete (" in out and "MMVet: not judged yet where incomplete; the judge m is asked no more" in out
    assert all(float(line["MMStar"]) > 0 for line in answered.lines())  # the other column stands
    assert any("incomplete" in line["MMVet"] for line in answered.lines())
    assert answered.lines()[1]["avg_pct"] == ""
    assert answered("run", "--judge-limit", limit)[0] == 3 and len(answered.judge.requests) == asked
    status, out, _ = answered("run", "--judge-limit", 1)
    assert status == 0 and len(answered.judge.requests) == 7 and "of a limit of $1" in out


def test_a_limit_without_a_price_is_refused(answered: Answered) -> None:
    path = answered.write("judged", {"base_url": answered.judge.url, "model": "m"})
    status, _, err = answered("run", "--judge-limit", 1, path=path)
    assert status == 2 and "a limit in dollars cannot be kept without its price" in err
    assert answered.judge.requests == []
    assert answered(path=path)[0] == 0  # a server of one's own: no key, no price
    assert all("Authorization" not in headers for headers in answered.judge.headers)
    sums = answered.judging()["in_all"]
    assert (sums["usd"], sums["calls_of_unknown_price"], sums["prompt_tokens"]) == (None, 7, 7000)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([None, None, *[(503, {"Retry-After": "0"})] * 90], "did not answer after 7 tries (HTTP 503)"),
        ([None, None, *[401] * 9], "refused the request (HTTP 401); check base_url, model and the key in OPENAI_"),
    ],
)
def test_a_judge_that_is_down_costs_no_answer_and_no_verdict(script: list[Any], said: str, answered: Answered) -> None:
    answered.judge.script = script
    status, out, err = answered()
    assert status == 3 and "incomplete (" in out
    (sentence,) = [line for line in err.splitlines() if line.startswith("retain: ")]
    assert said in sentence
    judged = len((answered.store.root / "judge/m.jsonl").read_text().splitlines())
    assert judged == 2
    answered.judge.script = []
    answered.judge.requests.clear()
    assert answered()[0] == 0 and len(answered.judge.requests) == 7 - judged


def test_retain_table_asks_no_judge(answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    status, out, _ = answered("table")
    assert status == 3 and answered.judge.requests == [] and "only `retain run` asks for them" in out


def test_exact_and_judged_scores_make_no_leaderboard_together(answered: Answered) -> None:
    exact = answered.write("exact", "exact")
    assert answered()[0] == 0 and answered(path=exact)[0] == 0
    assert "MMVet (exact)" in answered.table("md", "exact").read_text()
    status, _, err = answered("leaderboard", exact)
    assert status == 2
    assert "exact scores MMVet by exact match, judged by judge m: make a leaderboard of its own of it" in err
    assert answered("leaderboard")[0] == 0
    board = answered.store.root / "leaderboard" / "leaderboard.csv"
    assert {line["scored:MMVet"] for line in csv.DictReader(board.open())} == {"judge m"}
    assert "MMVet (judged)" in board.with_suffix(".html").read_text()


def test_what_it_will_take(answered: Answered) -> None:
    (found,) = estimate(answered.plan, answered.data)
    assert (found.benchmark, found.judge, found.calls) == ("MMVet", "m", 8)
    asked = sum(len(message["content"]) for request in answered.unlimited() for message in request["messages"])
    assert found.prompt_tokens == pytest.approx(asked / 4 * 8 / 7, rel=0.1)
    assert found.completion_tokens == 8 * 3
    assert found.dollars == pytest.approx(found.prompt_tokens * 10e-6 + 24 * 30e-6)
