"""Tests that URLs are shown without the parts that may be secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from kepler_core.errors import StoreError
from kepler_core.store import open_store
from kepler_core.urls import file_path, is_file_url, secrets_of, shown_location, shown_url, split_url, without_secrets

SHOWN = {
    "http://host:80/x": "http://host:80/x",
    "http://user:s3cret@host/x?token=s3cret#s3cret": "http://host/x",
    "http://s3cret@host": "http://host",
    "http://user:s3@cret@host/x": "http://host/x",
    "http://user:s3/cret@host/x": "http://host/x",
    "http://user:s3?cret@host/x": "http://host/x",
    "http://user:s3#cret@host/x": "http://host/x",
    "http://host/x?signature=s3cret/s3@cret": "http://host/x",
    "s3://AKIAXXXX:s3/cret+s3@bucket/models": "s3://bucket/models",
    "simplecache::s3://user:s3cret@bucket/x": "simplecache::s3://bucket/x",
    "user:s3cret@host:9090/x": "host:9090/x",
    "http:/user:s3cret@host/x": "http:/host/x",
    "https:user:s3cret@host": "host",
    "http://[::1]:80/x?s3cret": "http://[::1]:80/x",
    "http://host:8080/models@v2/x.zip": "http://host:8080/models@v2/x.zip",
    "": "",
}


@pytest.mark.parametrize("url", SHOWN)
def test_urls_are_shown_without_secrets(url: str) -> None:
    assert shown_url(url) == SHOWN[url]
    assert shown_url(SHOWN[url]) == SHOWN[url]


def test_paths_are_shown_unchanged() -> None:
    assert shown_location("/data/a@b?c#d") == "/data/a@b?c#d"
    assert shown_location("https://user:s3cret@host/x") == "https://host/x"


def test_texts_of_libraries_are_shown_without_secrets() -> None:
    url = "http://user:s3cret@host/x?token=abcdef&n=1"
    for text in (
        f'Could not connect to the endpoint URL: "{url}"',
        f"HTTPConnectionPool: Max retries exceeded with url: {url} (Caused by …)",
        "URL can't contain control characters. '/x?token=abcdef&n=1'",
        "nonnumeric port: 's3cret@host'",
        "token abcdef is unknown",
    ):
        shown = without_secrets(text, secrets_of(url))
        assert "s3cret" not in shown
        assert "abcdef" not in shown
    assert without_secrets("see http://host/x: no", ["", "no"]) == "see http://host/x: no"


@pytest.mark.parametrize("url", ["http://user:s3cret@[", "http://user:s3cret@\u2100/x", "s3://user:s3cret@bucket/x"])
def test_errors_of_malformed_urls_have_no_secret(url: str) -> None:
    with pytest.raises(StoreError) as error:
        open_store(url)
    assert "s3cret" not in str(error.value)
    if not url.startswith("s3"):
        with pytest.raises(StoreError) as error:
            split_url(url)
        assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("scheme", ["file", "FILE", "File"])
def test_file_urls_in_any_case(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://{tmp_path}/a%20b"
    assert is_file_url(url)
    assert file_path(url) == f"{tmp_path}/a b"
    assert open_store(url).location == f"{tmp_path}/a b"
