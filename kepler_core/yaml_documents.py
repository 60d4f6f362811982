"""Decode YAML that users and clients provide, and write YAML. All YAML of Kepler Core is read and written here.

PyYAML's own loaders build Python objects from tags, expand aliases without a limit, and raise errors of many
types. `decode_yaml` uses only PyYAML's parser, builds plain values from the parser's events, and limits the size of
these values. `decode_yaml` raises `DocumentError` if a document is not YAML, has a value that is not plain, or exceeds
a limit. The error states the line and the column if they are known.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import attrs
import yaml

from kepler_core.documents import MAX_CHARACTERS, MAX_DEPTH, MAX_NUMBER, DocumentError
from kepler_core.messages import printable, quoted

MAX_BYTES = 2**20
"""Maximum size of a YAML document that is accepted: in bytes for a file, in characters for decoded text."""
MAX_VALUES = 10_000
"""Maximum number of keys and values in an accepted document. Each alias counts as much as the value that it repeats."""
MAX_NUMBER_CHARACTERS = 40

_TAG = "tag:yaml.org,2002:"


def decode_yaml(text: str) -> Any:
    """Return the content of a YAML document: dicts, lists, text, finite numbers, true, false and null.

    Dates are returned as text. Each alias gives a copy of its anchor's value, so that a change of the copy leaves
    the anchor's value as it is. Raises `DocumentError` if the document is not YAML or exceeds a limit. Also raises it
    for a tag, a merge key, a key that occurs twice, and a key that is not text.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"larger than {MAX_BYTES} bytes")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return _Builder(loader).document()
    except yaml.reader.ReaderError as error:
        raise DocumentError(f"character {error.position + 1} is not allowed (U+{error.character:04X})") from error
    except yaml.MarkedYAMLError as error:
        raise _error_at(error.problem_mark, error.problem or "not YAML") from error
    except (ValueError, OverflowError) as error:
        # PyYAML 6.0.3 does not check the range of \U escapes and of version numbers before it converts them
        raise _error_at(loader and loader.get_mark(), "a number or character that is out of range") from error


def encode_yaml(value: Any, *, flow: bool = False) -> str:
    """Encode plain values (dicts, lists, text, numbers) as YAML: on several lines or, with `flow`, on one line."""
    if flow:
        text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
        return text.removesuffix("\n").removesuffix("\n...")
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


@attrs.frozen
class _Value:
    """A value in a YAML document, and its size."""

    content: Any
    count: int = 1
    """Number of all keys and values inside this value, plus 1 for the value itself."""
    height: int = 0
    """Number of nested levels of lists and mappings in this value; 0 for a scalar."""


class _Builder:
    """Builds the values of one document from the events of PyYAML's parser."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._anchors: dict[str, _Value | None] = {}
        """Value of each anchor by name; None while the value is still being built."""
        self._count = 0
        self._depth = 0

    def document(self) -> Any:
        self._next()  # skip the parser's first event
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next())
        self._next()  # skip the parser's event for the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _error(event, "a second document")
        return value.content

    def _next(self) -> yaml.Event:
        event: yaml.Event = self._loader.get_event()  # type: ignore[no-untyped-call]
        return event

    def _value(self, event: yaml.Event) -> _Value:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self._add(event, 1)
        anchor: str | None = event.anchor  # type: ignore[attr-defined]
        if event.tag is not None:  # type: ignore[attr-defined]
            tag = event.tag.replace(_TAG, "!!")  # type: ignore[attr-defined]
            raise _error(event, f"tag {quoted(tag)} is not supported; write the value without it")
        if anchor is not None:
            if anchor in self._anchors:
                raise _error(event, f"anchor {quoted(anchor)} is defined twice")
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = _Value(self._scalar(event))
        else:
            self._depth += 1
            self._check_depth(event, 0)
            value = self._sequence() if isinstance(event, yaml.SequenceStartEvent) else self._mapping()
            self._depth -= 1
        if anchor is not None:
            self._anchors[anchor] = value
        return value

    def _alias(self, event: yaml.AliasEvent) -> _Value:
        if event.anchor not in self._anchors:
            raise _error(event, f"alias {quoted(event.anchor)} has no anchor")
        value = self._anchors[event.anchor]
        if value is None:
            raise _error(event, f"nested too deeply: alias {quoted(event.anchor)} is inside its own anchor")
        self._add(event, value.count)
        self._check_depth(event, value.height)
        return attrs.evolve(value, content=copy.deepcopy(value.content))

    def _sequence(self) -> _Value:
        items: list[Any] = []
        count, height = 1, 0
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            item = self._value(event)
            items.append(item.content)
            count, height = count + item.count, max(height, item.height)
        return _Value(items, count, height + 1)

    def _mapping(self) -> _Value:
        items: dict[str, Any] = {}
        count, height = 1, 0
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event).content
            if not isinstance(key, str):
                raise _error(event, f"key {quoted(key)} is not text")
            if key in items:
                raise _error(event, f"key {quoted(key)} appears twice")
            item = self._value(self._next())
            items[key] = item.content
            count, height = count + 1 + item.count, max(height, item.height)
        return _Value(items, count, height + 1)

    def _scalar(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        text: str = event.value
        tag: str = self._loader.resolve(yaml.ScalarNode, text, event.implicit)  # type: ignore[no-untyped-call]
        tag = tag.removeprefix(_TAG)
        if tag == "null":
            return None
        if tag == "bool":
            return self._loader.bool_values[text.lower()]
        if tag in ("int", "float"):
            return self._number(event, tag)
        if tag == "merge":
            raise _error(event, "merge keys (<<) are not supported")
        if len(text) > MAX_CHARACTERS:
            raise _error(event, f"text of more than {MAX_CHARACTERS} characters")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _error(event, "text with half of a surrogate pair")
        return text

    def _number(self, event: yaml.ScalarEvent, kind: str) -> int | float:
        text: str = event.value
        number: int | float = math.inf
        if len(text) <= MAX_NUMBER_CHARACTERS:
            node = yaml.ScalarNode(_TAG + kind, text)
            try:
                construct = self._loader.construct_yaml_int if kind == "int" else self._loader.construct_yaml_float
                number = construct(node)
            except (ValueError, OverflowError):  # e.g. for 0x_, which has no digits
                raise _error(event, f"{quoted(text)} is not a number") from None
        if not -MAX_NUMBER <= number <= MAX_NUMBER:
            raise _error(event, f"{quoted(text)} is not a finite number up to 2^53")
        return number

    def _add(self, event: yaml.Event, count: int) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            raise _error(event, f"more than {MAX_VALUES} keys and values, with those that aliases repeat")

    def _check_depth(self, event: yaml.Event, height: int) -> None:
        if self._depth + height > MAX_DEPTH:
            raise _error(event, f"nested too deeply: more than {MAX_DEPTH} levels")


def _error(event: yaml.Event, problem: str) -> DocumentError:
    return _error_at(event.start_mark, problem)


def _error_at(mark: Any, problem: str) -> DocumentError:
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return DocumentError(place + printable(problem))
