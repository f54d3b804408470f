"""The audit of a run finds what is wrong."""

from typing import Any

from tests.masumi_sdk.audit import overlaps, spans_of, wrong_polls


def line(run: str, at: float, job: str = "1") -> dict[str, Any]:
    return {"run": run, "job": job, "at": at, "what": "step"}


def test_two_runs_at_once_are_found() -> None:
    assert overlaps([line("a", 1), line("a", 3), line("b", 3.5), line("b", 4)]) == []
    assert overlaps([line("a", 1), line("a", 3), line("b", 2, "2")]) == []
    (found,) = overlaps([line("a", 1), line("b", 2), line("b", 2.5), line("a", 3)])
    assert "job 1 ran twice" in found


def test_a_run_inside_a_long_one_is_found_later() -> None:
    lines = [line("a", 1), line("a", 9), line("b", 2), line("b", 3), line("c", 5), line("c", 6)]
    assert len(overlaps(lines)) == 2
    assert [span.run for span in spans_of(lines)["1"]] == ["a", "b", "c"]


def test_wrong_polls_are_found() -> None:
    good = [(200, "awaiting_payment", None), (200, "running", None), (200, "completed", "x")]
    assert wrong_polls([*good, (503, None, None), good[-1]]) == []
    assert wrong_polls([(404, None, None)]) == ["404 for a job that was hired"]
    assert wrong_polls([good[1], good[0]]) == ["back to awaiting_payment"]
    (found,) = wrong_polls([good[2], (200, "completed", "y")])
    assert found.startswith("the result changed")
