"""Tests of HTTP headers that contain a name, e.g. of a model: no name can add a header or a parameter."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from kepler_servers.http.answer import attachment, header_text

NAMES = ['a"; filename="b', "a\r\nSet-Cookie: b=c", "a\\b", "Größe", "a;b", "a%0d%0ab", "../a", "a\0b", "\u2028", ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_do_not_add_headers_or_parameters(name: str) -> None:
    value = attachment(name)
    assert value.isascii()
    assert value.isprintable()
    match = re.fullmatch(r"attachment; filename=\"[\w.-]*\"; filename\*=UTF-8''([\w.~%-]*)", value, re.ASCII)
    assert match is not None, value
    assert unquote(match[1]) == name
    assert header_text(name).isascii()
    assert header_text(name).isprintable()


def test_usual_names_are_unchanged() -> None:
    assert attachment("LinearRegressionTrainer_0.zip") == 'attachment; filename="LinearRegressionTrainer_0.zip"'
    assert header_text("made/rapl-sysfs/AbsPower/BPFOnly/X_0") == "made/rapl-sysfs/AbsPower/BPFOnly/X_0"
