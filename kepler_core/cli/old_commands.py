"""Translate commands and options of kepler-model-server 0.7 to those of `kepler-model`, for error messages."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from kepler_core.cli.old_command_table import COMMANDS, OPTIONS, OldOption, Replacement
from kepler_core.messages import printable
from kepler_core.urls import shown_location

_DATA_FOLDER = "/data"
"""The old default of the option --data-path and of the environment variable DATAPATH."""
_LINE_CHARACTERS = 2000
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./:-]*")
"""Text that needs no quotes in YAML."""
_PLACEHOLDERS = {
    "value": "VALUE", "list": "A,B", "json": "FILE.json", "csv": "FILE.csv", "png": "FILE.png", "trainer": "TRAINER",
    "folder": "FOLDER", "data": "DIR", "kind": "abs", "other": "dyn",
}  # fmt: skip
_OPTION_OF = {name: option for option in OPTIONS for name in option.names}


def new_form(command: str, arguments: Sequence[str]) -> str:
    """Return the error message for a renamed command: one line with the new form of the command line.

    `arguments` are the words after the command. If they cannot be parsed, the new form has placeholders instead.
    """
    old = COMMANDS[command]
    given = _parse(arguments)
    values: dict[str, Any] = {**old.defaults, **(given or {})}
    data = _data_folder(values)
    words = old.new.split()
    notes = []
    for name, replacement in old.options.items():
        if name == "--data-path":
            continue
        if name in values:
            words += _words(replacement, values[name], values)
            if replacement.note and not _is_choice(replacement, values[name]):
                notes.append(f"{name}: {replacement.note}")
        elif given is None and replacement.new:
            words += documented(replacement).split()
    words += [word.format_map({"data": data}) for word in old.last.split()]
    return _line(f"{command} is now: kepler-model {shlex.join(words)}", notes)


def replaced_options(command: str, arguments: Sequence[str], known: Collection[str]) -> str | None:
    """Return the error message that names what replaces the old options of a command that still exists.

    `known` are the options that the command has now. Return None if the command still has all options in
    `arguments`.
    """
    old = COMMANDS[command]
    written = [word.partition("=")[0] for word in arguments]
    spelled = {_OPTION_OF[word]: word for word in written if word in _OPTION_OF and word not in known}
    if not spelled:
        return None
    values = _parse(arguments) or {}
    texts = []
    for option, name in spelled.items():
        replacement = old.options.get(option.name)
        if replacement is None:
            texts.append(f"{name} is not needed")
        elif not replacement.new:
            texts.append(f"{name} is {replacement.note}" if replacement.note.startswith("not ") else
                         f"{name} is not needed ({replacement.note})")  # fmt: skip
        else:
            words = _words(replacement, values[option.name], values) if option.name in values else None
            new = documented(replacement) if words is None else shlex.join(words)
            plain = replacement.note and not _is_choice(replacement, values.get(option.name))
            note = f" ({replacement.note})" if plain else ""
            texts.append(f"{name} is now {new}{note}" if new else f"{name} is not needed")
    return _line(f"{command}: {'; '.join(texts)}", [])


def documented(replacement: Replacement) -> str:
    """Return the new words with placeholders, e.g. `--input FILE.json`; empty if nothing replaces the option."""
    return replacement.new.format_map(_PLACEHOLDERS)


def _line(text: str, notes: Sequence[str]) -> str:
    more = f" ({'; '.join(notes)})" if notes else ""
    return printable(f"{text}{more}; see docs/old-commands.md", _LINE_CHARACTERS)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return a dictionary: long name of each old option in `arguments` -> its value.

    Return None if kepler-model-server 0.7 would reject the arguments.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option in OPTIONS:
        _add(parser, option)
    try:
        namespace, _ = parser.parse_known_args(list(arguments))
    except (ValueError, argparse.ArgumentError):
        return None
    return {name: value for name, value in vars(namespace).items() if name in _OPTION_OF}


def _add(parser: argparse.ArgumentParser, option: OldOption) -> None:
    settings: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    match option.values:
        case "none":
            settings["action"] = "store_true"
        case "many":
            settings["nargs"] = "+"
    parser.add_argument(*option.names, **settings)


def _words(replacement: Replacement, value: Any, values: dict[str, Any]) -> list[str]:
    """Return the new words for a value of an old option."""
    if value == replacement.ignored:
        return []
    template = replacement.choices.get(value, replacement.new) if isinstance(value, str) else replacement.new
    parts = list(value) if isinstance(value, list) else str(value).split(",")
    if not replacement.each:
        return _filled(template, ",".join(parts), values)
    return [word for part in parts if part for word in _filled(template, part, values)]


def _is_choice(replacement: Replacement, value: Any) -> bool:
    return isinstance(value, str) and value in replacement.choices


def _filled(template: str, value: str, values: dict[str, Any]) -> list[str]:
    data = _data_folder(values)
    dynamic = values.get("--output-type") == "DynPower"
    fields = {
        "value": shown_location(value),
        "list": ",".join(part if _PLAIN.fullmatch(part) else json.dumps(part) for part in value.split(",")),
        "json": _file(data, value, ".json"),
        "csv": _file(data, value, ".csv"),
        "png": _file(data, value, ".png"),
        "trainer": re.sub(r"_\d+$", "", value),
        "folder": os.path.join(value, "v0.7", str(values.get("--pipeline-name", "NAME"))),
        "data": data,
        "kind": "dyn" if dynamic else "abs",
        "other": "abs" if dynamic else "dyn",
    }
    # the value of --set may have blanks, as in {name: trainer, args: …}, but is one word of the command line
    head, *rest = template.split(" ", 1) if template.startswith("--set ") else (template,)
    words = [head, *rest] if rest else template.split()
    return [word.format_map(fields) for word in words]


def _data_folder(values: dict[str, Any]) -> str:
    return str(values.get("--data-path") or os.environ.get("DATAPATH") or _DATA_FOLDER)


def _file(folder: str, name: str, suffix: str) -> str:
    """Return the path of a file in the old data folder. kepler-model-server added a missing suffix to names."""
    return os.path.join(folder, name if suffix in name else name + suffix)
