"""Calls of the payment service over HTTP: one try each, bounded in time and in size."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Self

import httpx
import msgspec

from tollgate.masumi.payment import (
    NewPayment,
    Payment,
    Position,
    Times,
    ToldChange,
    ToldNewPayment,
    ToldPayment,
    milliseconds,
)

log = logging.getLogger("tollgate.payments")
logging.getLogger("httpx").setLevel(logging.WARNING)  # else each call is a line

PAGE: Final = 100
"""The most payments that the service returns in a page."""
ANSWER_BYTES: Final = 4 * 1024 * 1024
"""The largest answer. With nothing but tiny entries, it takes 38 times as much memory."""
SHOWN_CHARACTERS: Final = 200
RETRY_AFTER_S_MAX: Final = 600.0
CLOCKS: Final = 3
"""The time is the middle one of so many answers: one wrong date changes nothing."""
LEFT_OUT_MAX: Final = 1_000
"""How many unreadable payments are remembered, so that each is one line in the log."""
RETRYABLE: Final = frozenset({408, 425, 429})
"""Besides all from 500 on."""


class ServiceFailedError(Exception):
    """The service gave no answer that can be used. Whether it has acted is not known."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Keep how long the service asks to wait, in s."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AnswerTooLargeError(ServiceFailedError):
    """The answer has more than `ANSWER_BYTES`: ask for less."""


class UnreadableError(ServiceFailedError):
    """The service answered, and shows a payment that cannot be read."""


class ServiceRefusedError(Exception):
    """The service refuses the call, and would refuse it again as things are."""

    def __init__(self, message: str, status: int) -> None:
        """Keep the HTTP status."""
        super().__init__(message)
        self.status = status

    @property
    def is_ours(self) -> bool:
        """Whether the token or its rights are wrong, so that no call will be taken."""
        return self.status == httpx.codes.UNAUTHORIZED


class Page(msgspec.Struct, frozen=True):
    """Payments in the order of their changes."""

    payments: list[Payment]
    """Those that can be read."""
    last: Position | None
    """Where the page ends, or None if nothing is on it."""


class _ToldPage(msgspec.Struct):
    Payments: list[msgspec.Raw]


class _Answer(msgspec.Struct):
    data: msgspec.Raw


class _Reason(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    """How the service itself says no. What lies in front of it has other words."""

    status: Literal["error"]
    error: _Reason


class PaymentService:
    """The payment service at a URL such as `https://payments.example.com/api/v1`.

    `token` is its API key, `network` is `Preprod` or `Mainnet`. A call takes at most `timeout_s`.
    All calls raise ServiceFailedError and ServiceRefusedError.
    """

    def __init__(
        self,
        url: str,
        token: str,
        network: str,
        *,
        timeout_s: float = 15.0,
        smart_contract_address: str | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._network = network
        self._timeout_s = timeout_s
        self._source = (
            {"filterSmartContractAddress": smart_contract_address} if smart_contract_address else {}
        )
        self._http = httpx.AsyncClient(headers={"token": token}, timeout=timeout_s)
        self._ahead_s = deque([0.0], maxlen=CLOCKS)
        """How far the service's clock was ahead of ours; ours counts until it is pushed out."""
        self._left_out: set[str] = set()

    def now(self) -> datetime:
        """Return the time of the service's clock, as its last answers told it.

        No single answer decides: it is the middle one of three, or the earlier one of two.
        """
        ahead_s = sorted(self._ahead_s)[(len(self._ahead_s) - 1) // 2]
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + ahead_s, UTC)

    async def changes(
        self, source_type: str, since: str, after_id: str | None = None, limit: int = PAGE
    ) -> Page:
        """Return up to `limit` payments that changed at `since` (ISO 8601) or later, oldest first.

        With `after_id`, of those that changed just then only that payment and the ones behind it.
        `source_type` is `Web3CardanoV1` or `Web3CardanoV2`: the service leaves out all others.
        """
        query = {
            "network": self._network, "limit": str(limit), "lastUpdate": since,
            "filterPaymentSourceType": source_type, **self._source,
        }  # fmt: skip
        if after_id is not None:
            query["cursorId"] = after_id
        told = (await self._call("GET", "/payment/diff", _ToldPage, query=query)).Payments
        if len(told) > PAGE:
            raise ServiceFailedError(f"/payment/diff: {len(told)} payments on a page of {PAGE}")
        return Page([each for each in map(self._readable, told) if each is not None], _end_of(told))

    async def resolve(self, blockchain_identifier: str) -> Payment | None:
        """Return a payment as it is now, with its history, or None if there is no such payment."""
        body = {**self._about(blockchain_identifier), "includeHistory": "true"}
        try:
            path = "/payment/resolve-blockchain-identifier"
            payment = _checked(await self._call("POST", path, msgspec.Raw, body=body))
        except ServiceRefusedError as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise
        if payment.blockchain_identifier != blockchain_identifier:
            raise ServiceFailedError(f"{path}: the answer is about another payment, {payment.id}")
        return payment

    async def create(  # noqa: PLR0913 - one argument a field
        self,
        agent_identifier: str,
        identifier_from_purchaser: str,
        input_hash: str,
        times: Times,
        *,
        amounts: Sequence[tuple[str, str]] = (),
        source_index: int | None = None,
    ) -> NewPayment:
        """Make a payment that the buyer can make. It is not idempotent: a repeat makes another.

        `amounts` are pairs of an amount, in the smallest unit of its asset, and the asset; they are
        for agents whose price is not fixed in the registry. `source_index` is for payments of
        version 2.
        """
        body: dict[str, Any] = {
            "network": self._network,
            "agentIdentifier": agent_identifier,
            "identifierFromPurchaser": identifier_from_purchaser,
            "inputHash": input_hash,
            "payByTime": _iso(times.pay_by),
            "submitResultTime": _iso(times.submit_result),
            "unlockTime": _iso(times.unlock),
            "externalDisputeUnlockTime": _iso(times.external_dispute_unlock),
        }
        if amounts:
            body["RequestedFunds"] = [{"amount": amount, "unit": unit} for amount, unit in amounts]
        if source_index is not None:
            body["supportedPaymentSourceIndex"] = source_index
        told = await self._call("POST", "/payment", ToldNewPayment, body=body)
        try:
            made: NewPayment = told.payment()
        except ValueError as fault:
            raise ServiceFailedError(f"/payment: {fault}") from None
        return made

    async def submit(self, blockchain_identifier: str, result_hash: str) -> None:
        """Have a hash put on chain. It is not idempotent: `resolve` tells what came of it."""
        body = {**self._about(blockchain_identifier), "submitResultHash": result_hash}
        await self._call("POST", "/payment/submit-result", msgspec.Raw, body=body)

    async def recover(self, payment: Payment) -> None:
        """Clear the error of a payment, if it has not changed: then it waits for us.

        The service could also try again what failed. But it takes the hash from its own history.
        """
        body = {**self._about(payment.blockchain_identifier), "updatedAt": payment.updated_at}
        await self._call("POST", "/payment/error-state-recovery", msgspec.Raw, body=body)

    def _about(self, blockchain_identifier: str) -> dict[str, Any]:
        return {"network": self._network, "blockchainIdentifier": blockchain_identifier}

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[Any],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - of `kind`
        try:
            # The limit of the library is for each read: a slow answer could take for ever.
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.stream(method, self._url + path, params=query, json=body) as response,
            ):
                text = await _read(path, response)
        except TimeoutError:
            raise ServiceFailedError(f"{path}: no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as fault:
            raise ServiceFailedError(f"{path}: {str(fault) or type(fault).__name__}") from None
        finally:
            self._http.cookies.clear()  # else they would pile up
        status = response.status_code
        if response.is_success:
            data = _decoded(path, kind, status, text)
            self._measure(response)
            return data
        message = f"{path}: {_told(status, text)}"
        if httpx.codes.is_client_error(status) and status not in RETRYABLE and _is_refusal(text):
            self._measure(response)
            raise ServiceRefusedError(message, status)
        raise ServiceFailedError(message, _retry_after_s(response))

    def _measure(self, response: httpx.Response) -> None:
        """Learn the service's time from the header of its answer; it has whole seconds."""
        try:
            told = parsedate_to_datetime(response.headers["date"]).timestamp()
            milliseconds(int(1_000 * told))
            self._ahead_s.append(told - datetime.now(UTC).timestamp())
        except (KeyError, ValueError, OverflowError, OSError):
            return

    def _readable(self, told: msgspec.Raw) -> Payment | None:
        """Return a payment of a page; one that cannot be read must not hide those behind it."""
        try:
            return msgspec.json.decode(told, type=ToldPayment).payment()
        except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
            line = _line(told)
            if line not in self._left_out:
                log.warning("a payment is left out, as it cannot be read (%s): %s", fault, line)
                if len(self._left_out) >= LEFT_OUT_MAX:
                    self._left_out.clear()
                self._left_out.add(line)
            return None

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return the service."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self.close()


async def _read(path: str, response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES:
            raise AnswerTooLargeError(f"{path}: the answer has more than {ANSWER_BYTES} bytes")
    return b"".join(parts)


def _decoded(path: str, kind: type[Any], status: int, text: bytes) -> Any:  # noqa: ANN401 - of `kind`
    try:
        return msgspec.json.decode(msgspec.json.decode(text, type=_Answer).data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        message = f"{path}: the answer is not as expected ({fault}): {_told(status, text)}"
        raise ServiceFailedError(message) from None


def _is_refusal(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=_Refusal)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


def _end_of(told: Sequence[msgspec.Raw]) -> Position | None:
    """Return where a page ends; what cannot be read there is passed over."""
    for each in reversed(told):
        try:
            return msgspec.json.decode(each, type=ToldChange).position()
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return None


def _checked(told: msgspec.Raw) -> Payment:
    try:
        return msgspec.json.decode(told, type=ToldPayment).payment()
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise UnreadableError(f"the payment cannot be read ({fault}): {_line(told)}") from None


def _iso(milliseconds: int) -> str:
    """Return a time as the service reads it: in UTC, with a Z."""
    moment = datetime.fromtimestamp(milliseconds / 1_000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _told(status: int, text: bytes) -> str:
    return f"{status} {_line(text)}".rstrip()


def _line(text: bytes | msgspec.Raw) -> str:
    line = " ".join(bytes(text)[: 4 * SHOWN_CHARACTERS].decode(errors="replace").split())
    return "".join(each for each in line if each.isprintable())[:SHOWN_CHARACTERS]


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return what the service asks for: a number of seconds, or a date."""
    told = str(response.headers.get("retry-after", "")).strip()
    if not told:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            at = parsedate_to_datetime(told)
        except (ValueError, OverflowError):
            return None
        seconds = at.timestamp() - datetime.now(UTC).timestamp()
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)
