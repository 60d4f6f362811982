"""Flags and numbers that clients send as text, in JSON bodies and in query parameters.

Clients of kepler-model-server 0.7 send `"weight": "true"`, `"node_type": "0"` or `"cores": "96"`. For a flag, a text is
valid if Go's `strconv.ParseBool` accepts it. For a number, a text is valid if it has the form of a JSON number; leading
zeros are allowed. An empty text counts as an absent value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from kepler_core.documents import MAX_NUMBER
from kepler_core.errors import RequestError
from kepler_core.machine import MAX_ATTRIBUTE, NUMBERS
from kepler_core.messages import quoted

MAX_CHARACTERS = 1000
"""Maximum length of a text in place of a flag or a number. A longer text is rejected at once."""

FLAGS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
"""The values of flags, by the text that stands for them."""

_NUMBER = r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"

FlagText = Annotated[str, Meta(max_length=MAX_CHARACTERS, extra_json_schema={"enum": [*FLAGS, ""]})]
"""Type of a flag that a client sends as text. The decoder accepts any text. The function `flag` then rejects invalid
texts, with an error that lists the valid texts."""
NumberText = Annotated[str, Meta(max_length=MAX_CHARACTERS, extra_json_schema={"pattern": f"^({_NUMBER})?$"})]
"""Type of a number that a client sends as text."""


def flag(value: bool | str | None, key: str) -> bool | None:
    """Return the flag that a client has sent under `key`; None if it is absent. Raises `RequestError`."""
    if not isinstance(value, str):
        return value
    if value not in ("", *FLAGS):
        raise RequestError(key, f"{quoted(value)} is not true or false; a text must be one of {', '.join(FLAGS)}")
    return FLAGS.get(value)


def number(value: float | str | None, key: str, lowest: int, highest: int) -> int | float | None:
    """Return the number that a client has sent under `key`; None if it is absent.

    A number without a fraction is returned as int. Raises `RequestError` if the value is not a number, or if the
    number is not between `lowest` and `highest`.
    """
    sent = value
    if isinstance(value, str):
        if not value:
            return None
        value = _number(value)
    if value is not None and not (isinstance(value, int | float) and lowest <= value <= highest):
        value = None
    if value is None and sent is not None:
        raise RequestError(key, f"{quoted(sent)} is not a number between {lowest} and {highest}")
    return value


def whole_number(value: float | str | None, key: str, lowest: int, highest: int) -> int | None:
    """Return the whole number that a client has sent under `key`; None if it is absent. Raises `RequestError`."""
    checked = number(value, key, lowest, highest)
    if checked is None:
        return None
    if checked != int(checked):
        raise RequestError(key, f"{quoted(value)} is not a whole number between {lowest} and {highest}")
    return int(checked)


def with_numbers(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a machine's description in which the numeric attributes that were sent as text are numbers.

    `key` is the key of the description in the request. Attributes with an empty text are left out. Raises
    `RequestError` if a text is not a number between 0 and `MAX_ATTRIBUTE`.
    """
    checked = {
        name: number(value, f"{key}.{name}", 0, MAX_ATTRIBUTE) if name in NUMBERS and isinstance(value, str) else value
        for name, value in spec.items()
    }
    return {name: value for name, value in checked.items() if value is not None}


def flag_or_number(text: str, *, is_flag: bool, is_number: bool) -> str | bool | int | float:
    """Return the number or flag that a text contains; the text itself if it contains neither.

    A number or flag is returned only if it is expected (`is_number`, `is_flag`).
    """
    if is_number and (value := _number(text)) is not None and abs(value) <= MAX_NUMBER:
        return value
    return FLAGS.get(text, text) if is_flag else text


def _number(text: str) -> int | float | None:
    """Return the number in a text; None if the text does not have the form of a number. The result may be infinite."""
    if re.fullmatch(_NUMBER, text) is None:
        return None
    value = float(text)
    return int(value) if value.is_integer() and abs(value) <= MAX_NUMBER else value
