"""`python -m tests.payment_service`: run the stand-in until SIGTERM or SIGINT."""

import argparse
import json
import signal
import sys
import threading
from types import FrameType

from tests.payment_service.faults import Faults
from tests.payment_service.server import Server
from tests.payment_service.service import PaymentService

EXAMPLE = """\
example:
  python -m tests.payment_service --port 8700 --auto 0.5 --faults 0.1 --seed 7

It prints one line: {"url": "http://127.0.0.1:8700/api/v1", "token": "...", "agent": "..."}.
The token goes into the header `token`; `agent` is an agent identifier that POST /payment takes.
"""


def main(arguments: list[str] | None = None) -> None:
    """Serve, and print where."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    service = PaymentService(
        options.seed,
        Faults.all(options.seed, options.faults),
        chain_failures=options.chain_failures,
    )
    with Server(service, options.port) as server:
        where = {"url": server.url, "token": server.token, "agent": service.agent}
        sys.stdout.write(json.dumps(where) + "\n")
        sys.stdout.flush()
        while not stop.wait(options.auto):
            act(service)


def act(service: PaymentService) -> None:
    """Pay what was created, and take the chain one step further."""
    for payment in list(service.payments.values()):
        if payment.on_chain_state is None:
            service.lock_funds(payment.identifier)
    service.tick()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.payment_service",
        description="A stand-in for the Masumi payment service, in memory, on 127.0.0.1.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default: any free port")
    parser.add_argument("--seed", type=int, default=0, help="seed of ids, token and faults")
    parser.add_argument(
        "--faults", type=_share, default=0.0, metavar="SHARE", help="share of faulty calls, 0 to 1"
    )
    parser.add_argument(
        "--chain-failures", type=_share, default=0.0, metavar="SHARE",
        help="share of steps on the chain that fail, 0 to 1",
    )  # fmt: skip
    parser.add_argument(
        "--auto", type=_seconds, metavar="SECONDS",
        help="pay created payments, and take the chain one step, every so many seconds",
    )  # fmt: skip
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise ValueError(text)
    return seconds


if __name__ == "__main__":
    main()
