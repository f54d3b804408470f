"""The proxy before the stand-in lets through what it is not told to answer or to change."""

import json

from tests.payment_service.caller import Caller
from tests.payment_service.proxy import Answer

DATE = "Fri, 01 Jan 2100 00:00:00 GMT"


def test_a_planned_answer_comes_once_instead_of_the_services(call: Caller) -> None:
    call.server.proxy.plan("diff", Answer(302, b"", {"Location": "/", "Date": DATE}))
    status, headers, _ = call.raw("GET", "/payment/diff", network="Preprod")
    assert (status, headers["Location"], headers["Date"]) == (302, "/", DATE)
    status, headers, _ = call.raw("GET", "/payment/diff", network="Preprod")
    assert (status, headers["Date"] != DATE) == (200, True)


def test_the_data_of_good_answers_is_changed(call: Caller) -> None:
    call.server.proxy.changes["diff"] = lambda data: {"Payments": [*data["Payments"], "odd"]}
    _, _, text = call.raw("GET", "/payment/diff", network="Preprod")
    assert json.loads(text)["data"] == {"Payments": ["odd"]}


def test_an_older_service_refuses_a_type_that_it_does_not_know(call: Caller) -> None:
    call.server.service.source_types = ("Web3CardanoV1",)
    for source_type, status in (("Web3CardanoV1", 200), ("Web3CardanoV2", 400)):
        query = {"network": "Preprod", "filterPaymentSourceType": source_type}
        assert call.raw("GET", "/payment/diff", **query)[0] == status
