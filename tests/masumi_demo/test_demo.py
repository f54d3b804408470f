"""The demonstration runs, its buyers see what is wrong, and its pictures say what became of it."""

import io
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from rich.console import Console

from tests.masumi_demo import __main__ as demo
from tests.masumi_demo import seller
from tests.masumi_demo.buyers import MIX, Buyer, Deal, Kind, Market
from tests.masumi_demo.screen import COLUMNS, picture, summary, where
from tests.payment_service.service import PaymentService
from tollgate.domain.hashing import output_hash_as_deployed
from tollgate.testing import Broker

ROOT = Path(__file__).parents[2]
PLACE = where(["http://127.0.0.1:40000", "http://127.0.0.1:50000"])


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_demonstration_runs_to_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.masumi_demo", "--jobs", str(len(MIX)), "--seed", "2"],
        cwd=ROOT, capture_output=True, text=True, timeout=140, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 jobs completed, 8 hashes verified on chain, 4 without a result" in done.stdout
    assert "nothing is wrong" in done.stdout
    assert "hired over http://127.0.0.1:" in done.stderr


class Case:
    """A buyer who got the result that it wanted, with its hash on chain."""

    def __init__(self, kind: Kind) -> None:
        self.chain = PaymentService()
        market = Market("", "", httpx.AsyncClient(), self.chain, Random(1), lambda _: None)
        self.deal = Deal(1, kind, status="completed")
        self.buyer = Buyer(self.deal, market)
        made = self.chain.create()
        self.payment = self.chain.payments[made["blockchainIdentifier"]]
        self.buyer._payment = self.payment.identifier
        self.result(f'A plain text about "{self.buyer._input["topic"]}".\nWritten by me.')

    def result(self, text: str) -> None:
        self.buyer._result = text
        self.payment.result_hash = output_hash_as_deployed(self.buyer._purchaser, text)


def nothing(case: Case) -> None:
    pass


def another_result(case: Case) -> None:
    case.result('A plain text about "other things".')


def another_hash(case: Case) -> None:
    case.payment.result_hash = "0" * 64


def two_hashes(case: Case) -> None:
    case.chain.accepted.append((case.payment.identifier, "0" * 64))


def no_result(case: Case) -> None:
    case.buyer._result = ""


@pytest.mark.parametrize(
    ("kind", "plant", "found"),
    [
        (Kind.PAYS, nothing, ""),
        (Kind.PAYS, another_result, "another result: A plain"),
        (Kind.PAYS, another_hash, "on chain is 0000"),
        (Kind.PAYS, two_hashes, "other hashes were submitted"),
        (Kind.PAYS, no_result, "paid, and there is no result"),
        (Kind.LEAVES, nothing, "never pays, and the job is completed"),
    ],
)
def test_buyer_sees_what_is_wrong(kind: Kind, plant: Callable[[Case], None], found: str) -> None:
    case = Case(kind)
    plant(case)
    wrong = case.buyer._judge()
    assert len(wrong) == bool(found)
    assert "".join(wrong).startswith(found)
    assert case.deal.is_verified == (
        kind is Kind.PAYS and plant in {nothing, another_result, two_hashes}
    )


@pytest.mark.parametrize("kind", [Kind.PAYS, Kind.LEAVES])
async def test_seller_sees_what_is_not_settled(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seller, "SETTLED_S", 0.0)
    with Broker() as broker:
        async with broker.connect_async() as client:
            job = await client.create("ab" * 32, settle=True)
            deal = Deal(1, kind, job.job_id, is_over=True)
            without_job = Deal(2, kind, is_over=True)
            await seller.look(client, [deal, without_job])
    for each in (deal, without_job):
        assert [text.partition(", and")[0] for text in each.wrong] == [kind.value]


def test_a_wrong_deal_is_shown_and_summed_up() -> None:
    deal = Deal(
        1, Kind.PAYS, "1234567890", "completed", "FundsLocked", "manual", wrong=["another hash"],
        is_over=True,
    )  # fmt: skip
    console = Console(width=100, record=True, quiet=False, file=None)
    with console.capture() as shown:
        console.print(picture([deal], PLACE, 3, ["an event"], 30))
    for text in (
        "12345678 ", "open", "done", "for a person", "FundsLocked", "wrong", "an event", "faults 3"
    ):  # fmt: skip
        assert text in shown.get()
    assert "  1: another hash" in summary([deal], 3, 1.0)


@pytest.mark.parametrize("height", [24, 40])
def test_the_picture_fits_and_open_deals_come_first(height: int) -> None:
    deals = [
        Deal(number, MIX[number % len(MIX)], is_over=number > 3, on_chain="FundsOrDatumInvalid")
        for number in range(1, 101)
    ]
    deals[0].on_chain, deals[0].job_id = "Disputed", "1234567890"
    console = Console(width=80, height=height, file=None)
    with console.capture() as shown:
        console.print(picture(deals, PLACE, 0, ["x" * 200] * 3, height))
    lines = shown.get().splitlines()
    assert len(lines) < height
    assert "12345678 " in shown.get()
    assert lines[1].rstrip() == PLACE
    assert "Disputed" in shown.get()
    assert lines[-1].startswith("100 hired")
    assert lines[-1].endswith("faults 0")
    assert lines[3].split() == [name for name, _ in COLUMNS]


@pytest.mark.parametrize(
    ("size", "is_live"), [((80, 24), True), ((79, 24), False), ((80, 13), False)]
)
def test_a_small_terminal_gets_plain_lines(
    size: tuple[int, int], is_live: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shown = io.StringIO()
    console = Console(
        width=size[0],
        height=size[1],
        file=shown,
        force_terminal=True,
        _environ={"TERM": "xterm"},
    )
    monkeypatch.setattr(demo, "terminal", lambda **_: console)
    urls = ["http://127.0.0.1:40000", "http://127.0.0.1:50000"]
    with demo.Screen(PaymentService(), urls, deque()) as screen:
        screen.show([])
    assert (capsys.readouterr().err == "") == is_live
    assert ("hired over" in shown.getvalue()) == is_live


def processes_in(place: Path) -> list[bytes]:
    """Return the commands of processes of a demonstration: its folder is in their options."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                folder = (entry / "cwd").readlink()
            except OSError:  # it has just ended
                continue
            if os.fsencode(place) in command or place in folder.parents:
                found.append(command)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_of_it(
    number: signal.Signals, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("d")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.masumi_demo"],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(place)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while "hired over" not in (line := process.stderr.readline()):
        assert line, "it has ended"
    assert len(processes_in(place)) == 7  # broker, watcher, two workers, two gateways, guard
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-number if number is signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    assert "Task was" not in said
    until = time.monotonic() + 30
    while processes_in(place) or any(place.iterdir()):
        assert number is signal.SIGKILL, "it leaves something behind"
        assert time.monotonic() < until, processes_in(place)
        time.sleep(0.02)


@pytest.mark.parametrize("option", ["--jobs=0", "--jobs=-3", "--faults=2", "--faults=nan"])
def test_options_without_a_meaning_are_refused(option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main([option])
