"""The options of `tollgate payments masumi`: what is wrong is told before anything starts."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tollgate.masumi.command import main
from tollgate.token_file import read_token


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("abc-123\n")
    return file


def told(*options: str) -> str:
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    return result.output


def options(token: Path, **others: str) -> list[str]:
    given = {
        "service-url": "http://127.0.0.1:1/api/v1",
        "service-token-file": str(token),
        "network": "Preprod",
    } | {name.replace("_", "-"): value for name, value in others.items()}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize("url", ["payments.example.com", "ftp://a/b", "http://", "http://[", ""])
def test_a_wrong_url_is_told(token: Path, url: str) -> None:
    assert "is no address such as" in told(*options(token, service_url=url))


@pytest.mark.parametrize("text", ["", "\n", "two words", "\x00"])
def test_a_token_file_without_a_token_is_told(token: Path, text: str) -> None:
    token.write_text(text)
    assert "has no API key" in told(*options(token))


def test_a_token_that_is_no_text_is_told(token: Path) -> None:
    token.write_bytes(b"\xff\xfe")
    assert "it is no text" in told(*options(token))


@pytest.mark.parametrize("text", [b"abc-123", b"\xef\xbb\xbfabc-123", b"\xef\xbb\xbfabc-123\r\n"])
def test_a_token_from_any_editor_is_the_word(token: Path, text: bytes) -> None:
    token.write_bytes(text)
    assert read_token(token) == "abc-123"


@pytest.mark.parametrize("address", ["9300", ":9300", "host:", "host:x", "host:70000", "host:-1"])
def test_a_wrong_address_for_webhooks_is_told(token: Path, address: str) -> None:
    assert "--webhook" in told(*options(token, webhook=address))


@pytest.mark.parametrize("option", ["service-url", "service-token-file", "network"])
def test_what_is_needed_is_named(token: Path, option: str) -> None:
    given = options(token)
    at = given.index(f"--{option}")
    assert f"--{option}" in told(*given[:at], *given[at + 2 :])


def test_a_wrong_endpoint_is_told(token: Path) -> None:
    assert "--endpoint" in told(*options(token, endpoint="http://broker"))


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "tollgate payments masumi --service-url" in result.output
