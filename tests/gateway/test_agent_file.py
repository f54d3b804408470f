"""Reading an agent: what is taken, and each error with its line."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from tests.gateway.running import FREE, PAID
from tollgate.gateway.agent import Agent, duration
from tollgate.gateway.agent_file import AgentFileError, line_of, load

AGENT_ID = "a" * 60
WORKING = PAID.format(agent=AGENT_ID, url="https://payments.example.com/api/v1")


def written(directory: Path, text: str) -> str:
    path = directory / "agent.toml"
    path.write_text(text)
    return str(path)


def problems(source: str) -> list[str]:
    with pytest.raises(AgentFileError) as caught:
        load(source)
    return caught.value.problems


def test_paid_agent(tmp_path: Path) -> None:
    agent = load(written(tmp_path, WORKING))
    assert (agent.name, agent.queue, agent.price, agent.is_free) == (
        "Writer",
        "writer",
        "fixed",
        False,
    )
    assert agent.deadlines.submit_result == timedelta(hours=2)
    assert agent.payment_service is not None
    assert agent.payment_service.token_file == tmp_path / "token"
    assert [field.id for field in agent.input_schema.fields] == ["topic", "words"]


def test_free_agent_has_defaults(tmp_path: Path) -> None:
    agent = load(written(tmp_path, FREE))
    assert agent.is_free
    assert (agent.http.host, agent.http.port) == ("127.0.0.1", 8000)


def test_dynamic_price(tmp_path: Path) -> None:
    text = WORKING.replace("message =", 'price = [{ amount = "5000000" }]\nmessage =')
    assert load(written(tmp_path, text)).amounts == [("5000000", "")]


def test_schema_in_a_file(tmp_path: Path) -> None:
    fields = [{"id": "a", "type": "text", "name": "A"}]
    (tmp_path / "schema.json").write_text(json.dumps({"input_data": fields}))
    agent = load(written(tmp_path, 'name = "A"\nprice = "free"\ninput_schema = "schema.json"\n'))
    assert agent.input_schema.served() == {"input_data": fields}


def test_agent_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_agents.py").write_text(
        "from tollgate.gateway import Agent\n"
        "ECHO = Agent(name='Echo', price='free', input_data=[\n"
        "    {'id': 'a', 'type': 'text', 'name': 'A'}])\n"
        "OTHER = 5\n"
    )
    assert load("my_agents:ECHO").name == "Echo"
    assert problems("my_agents:OTHER") == ["my_agents:OTHER is a int, not a tollgate.gateway.Agent"]
    assert "has no NONE" in problems("my_agents:NONE")[0]
    assert "there is no module" in problems("no_such_agents:A")[0]


WRONG: list[tuple[str, str, int, str]] = [
    ('queue = "writer"', 'queue = "a b"', 2, "queue"),
    ('queue = "writer"', 'quene = "writer"', 2, "quene: there is no such setting"),
    (f'identifier = "{AGENT_ID}"', 'identifier = "short"', 3, "identifier"),
    ('type = "text"', 'type = "textx"', 8, "input_data[0].type"),
    ('id = "words"', 'id = "topic"', 13, "input_data[1].id"),
    ('name = "Words"', "", 12, "input_data[1]"),
    ('value = "3"', 'value = "three"', 10, "input_data[0].validations[0].value"),
    ('network = "Preprod"', 'network = "Testnet"', 24, "payment_service.network"),
    ('url = "https:', 'url = "ftp:', 22, "payment_service.url"),
    ('pay_by = "30m"', 'pay_by = "half an hour"', 28, "deadlines.pay_by"),
    ('pay_by = "30m"', 'pay_by = "119m"', 27, "submit_result must be 15m after pay_by"),
    ("timeout_s = 2", "timeout_s = 0", 25, "payment_service.timeout_s"),
    ("validations = [{", "validation = [{", 10, "no such key; did you mean 'validations'?"),
    ('name = "Topic"', 'name = "Topic"\nprice = "fixed"', 10, "above the first [[input_data]]"),
    ("[deadlines]", '[http]\ncors_origins = ["https://a.com/"]\n[deadlines]', 28, "no origin"),
    (
        'name = "Topic"',
        'name = "Topic"\ndata = { comment = "x" }',
        10,
        "data.comment: there is no such",
    ),
    ('value = "3"', 'value = "3", comment = 3', 10, "validations[0].comment: there is no such key"),
    ('name = "Writer"', 'name = "  "', 1, "one line that can be read"),
    ('message = "W', 'message = "\\u0000W', 4, "one line that can be read"),
    (f'identifier = "{AGENT_ID}"', f'identifier = "{AGENT_ID[:-1]} "', 3, "one word"),
    ("[deadlines]", '[http]\nhost = ""\n[deadlines]', 28, "no address"),
    ("[deadlines]", '[http]\nhost = "[::1]"\n[deadlines]', 28, "no address"),
    ("[deadlines]", "[http]\nhires_per_s = inf\n[deadlines]", 28, "finite number"),
    ("[deadlines]", '[http]\ncors_origins = ["a.com"]\n[deadlines]', 28, "no origin"),
    ("[deadlines]", '[http]\ntrusted_proxies = ["nginx"]\n[deadlines]', 28, "no address"),
    ("[deadlines]", '[http]\ntrusted_proxies = ["10.0.0.1/8"]\n[deadlines]', 28, "host bits"),
]


@pytest.mark.parametrize(("old", "new", "line", "why"), WRONG)
def test_error_has_its_line(tmp_path: Path, old: str, new: str, line: int, why: str) -> None:
    assert old in WORKING
    (problem,) = problems(written(tmp_path, WORKING.replace(old, new, 1)))
    assert problem.startswith(f"{tmp_path}/agent.toml:{line}: ")
    assert why in problem


def test_all_errors_are_told(tmp_path: Path) -> None:
    text = WORKING.replace('type = "text"', 'type = "x"').replace("30m", "x")
    text = text.replace('queue = "writer"', "queue = 5")
    assert len(problems(written(tmp_path, text))) == 3


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("name = \n", ":1: ", "no TOML"),
        ('name = "A"\nname = "B"\n', ":2: ", "no TOML"),
        ('name = "A"\n[http\n', ":2: ", "no TOML"),
        ("", ":1: ", "name: it is missing"),
        ('name = "A"\nprice = "free"\n', ":1: ", "input_data"),
        (FREE.replace('price = "free"\n', ""), ":1: ", "identifier is missing"),
        (FREE + "\n[http]\nport = 70000\n", ":16: ", "http.port"),
        (FREE.replace('text = "hello"', "text = 5"), ":11: ", "demo"),
        (FREE + '\n[[input_groups]]\nid = "g"\n', ":1: ", "input_groups"),
    ],
)
def test_other_errors(tmp_path: Path, text: str, place: str, why: str) -> None:
    found = problems(written(tmp_path, text))
    assert any(place in each and why in each for each in found), found


def test_unknown_key_in_a_group(tmp_path: Path) -> None:
    group = '[[input_groups]]\nid = "g"\ntitle = "G"\ncaption = "G"\n'
    text = FREE.replace("[[input_data]]", group)
    text = text.replace('id = "text"', '[[input_groups.input_data]]\nid = "text"\nlabel = "L"')
    found = problems(written(tmp_path, text))
    assert [each.partition("agent.toml:")[2].partition(";")[0] for each in found[:2]] == [
        "8: input_groups[0].caption: there is no such key",
        "12: input_groups[0].input_data[0].label: there is no such key",
    ]


@pytest.mark.parametrize(
    "setting",
    [
        'cors_origins = ["*"]',
        'cors_origins = ["https://a-b.example.com:8443", "http://localhost:3000", "http://[::1]"]',
        'trusted_proxies = ["*"]',
        'trusted_proxies = ["172.16.0.0/12", "fd00::/8", "::1"]',
        "trusted_proxies = []",
    ],
)
def test_callers_settings_are_taken(tmp_path: Path, setting: str) -> None:
    load(written(tmp_path, f"{FREE}\n[http]\n{setting}\n"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_of_other_editors(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(FREE.replace("Echo", "Écho").replace("\n", end).encode(encoding))
    assert load(str(path)).name == "Écho"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in problems(str(tmp_path / "none.toml"))[0]
    assert "cannot be read: Is a directory" in problems(str(tmp_path))[0]
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "\xe4"\n')
    assert "byte 9 is not UTF-8" in problems(str(path))[0]
    path.write_bytes(b"#" * 1_000_001)
    assert "more than 1,000,000 bytes" in problems(str(path))[0]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("{", ":1: this is no JSON"),
        ("[]", ":1: an object is expected"),
        ('{"input_data": [{"id": "a", "type": "x", "name": "A"}]}', "input_data[0].type"),
    ],
)
def test_errors_of_a_schema_file(tmp_path: Path, schema: str, why: str) -> None:
    (tmp_path / "schema.json").write_text(schema)
    text = 'name = "A"\nprice = "free"\ninput_schema = "schema.json"\n'
    (problem,) = problems(written(tmp_path, text))
    assert problem.startswith(f"{tmp_path}/schema.json")
    assert why in problem


def test_line_in_a_value_of_several_lines() -> None:
    text = 'a = """\nb = 1\n"""\nc = [\n  1,\n  2,\n]\n[d]\n# d.e\ne = 5\n'
    assert line_of(text, ("a",)) == 1
    assert line_of(text, ("c", 1)) == 4
    assert line_of(text, ("d", "e")) == 10
    assert line_of(text, ("d", "none")) == 8
    assert line_of(text, ("none",)) == 1


@pytest.mark.parametrize(
    ("told", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5_400), ("2d", 172_800)]
)
def test_duration(told: str, seconds: int) -> None:
    assert duration(told) == timedelta(seconds=seconds)


@pytest.mark.parametrize("told", ["", "5", 5, "0s", "366d", "1 h", "-1h", "9999999d", "1h ", None])
def test_wrong_duration(told: object) -> None:
    with pytest.raises(ValueError, match="time"):
        duration(told)


def test_agent_checks_itself() -> None:
    with pytest.raises(ValueError, match="payment_service is missing"):
        Agent(name="A", identifier=AGENT_ID, input_data=[{"id": "a", "type": "text", "name": "A"}])
