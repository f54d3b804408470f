"""The OpenAPI document says what the gateway does."""

import json

from tests.gateway.conftest import Town


def test_document_lists_every_path(town: Town) -> None:
    told = town.paid.get("/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    assert told["info"]["title"] == "Writer"
    assert set(told["paths"]) == {
        "/start_job",
        "/status",
        "/provide_input",
        "/availability",
        "/input_schema",
        "/demo",
    }


def test_every_reference_leads_somewhere(town: Town) -> None:
    told = town.free.get("/openapi.json").json()
    text = json.dumps(told)
    for part in text.split('"$ref": "')[1:]:
        place = part.partition('"')[0]
        found = told
        for step in place.removeprefix("#/").split("/"):
            found = found[step]


def test_input_of_the_agent_is_in_it(town: Town) -> None:
    told = town.paid.get("/openapi.json").json()
    body = told["paths"]["/start_job"]["post"]["requestBody"]["content"]["application/json"]
    schema = body["schema"]
    assert schema["required"] == ["identifier_from_purchaser", "input_data"]
    assert set(schema["properties"]["input_data"]["properties"]) == {"topic", "words"}


def test_demo_is_shown_or_not_there(town: Town) -> None:
    assert town.free.get("/demo").json() == {
        "input": {"text": "hello"},
        "output": {"result": "HELLO"},
    }
    assert town.paid.get("/demo").status_code == 404
    for gateway, expected in ((town.free, "200"), (town.paid, "404")):
        told = gateway.get("/openapi.json").json()
        assert expected in told["paths"]["/demo"]["get"]["responses"]


def test_availability_names_the_registered_agent(town: Town) -> None:
    told = town.paid.get("/availability").json()
    assert told == {
        "status": "available",
        "type": "masumi-agent",
        "agentIdentifier": town.service.agent,
        "message": "Writes what you like",
    }
    assert "agentIdentifier" not in town.free.get("/availability").json()
