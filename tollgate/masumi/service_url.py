"""Checks the address of a payment service."""

from urllib.parse import urlsplit


def check_service_url(url: str) -> None:
    """Raise ValueError unless it is an address such as https://payments.example.com/api/v1."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ValueError(f"{url!r} is no address such as https://payments.example.com/api/v1")
