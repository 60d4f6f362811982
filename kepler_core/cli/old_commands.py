"""Translate commands and options of kepler-model-server 0.7 to those of `kepler-model`, for error messages."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from kepler_core.cli.old_command_table import COMMANDS, OPTIONS, OldOption, Replacement
from kepler_core.messages import printable
from kepler_core.urls import shown_location

_DATA_FOLDER = "/data"
"""The old default of the option --data-path and of the environment variable DATAPATH."""
_LINE_CHARACTERS = 2000
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./:-]*")
"""Matches text that needs no quotes in YAML."""
_PLACEHOLDERS = {
    "value": "VALUE", "list": "A,B", "json": "FILE.json", "csv": "FILE.csv", "png": "FILE.png", "trainer": "TRAINER",
    "folder": "FOLDER", "data": "DIR", "kind": "abs", "other": "dyn",
}  # fmt: skip
_OPTION_OF = {name: option for option in OPTIONS for name in option.names}


def new_form(name: str, arguments: Sequence[str], command: click.Command | None = None) -> str:
    """Return an error message of one line, which shows the new form of an old command line with the user's values.

    `arguments` are the words after the name of the old command. `command` is the command of Kepler Core with the same
    name, if it exists. Options that only the command of Kepler Core has are copied to the new form unchanged.
    """
    return _Line(name, arguments, command).new_form()


def changed_form(name: str, arguments: Sequence[str], command: click.Command) -> str | None:
    """Return the error message for an old command line, or None if the command line is not old.

    `command` exists both in kepler-model-server 0.7 and in Kepler Core. The command line is old if it has an option
    that only kepler-model-server has, a file name without a suffix, or a list separated by commas. It is also old if
    it has only options of both programs, but lacks an option for which kepler-model-server had a default.
    """
    line = _Line(name, arguments, command)
    return line.new_form() if line.is_old() else None


def is_old_file_name(name: str) -> bool:
    """Return whether `name` is a file name that only kepler-model-server 0.7 understands.

    kepler-model-server 0.7 split such a name at its commas, and added a missing suffix.
    """
    if os.path.exists(name) or name == "-":
        return False
    return "," in name or not os.path.splitext(name)[1]


class _Line:
    """A command line of kepler-model-server 0.7. It may also contain words that only Kepler Core understands."""

    def __init__(self, name: str, arguments: Sequence[str], command: click.Command | None) -> None:
        self.name = name
        self.old = COMMANDS[name]
        self.written = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        self.words = {word.partition("=")[2] if word.startswith("--") and "=" in word else word for word in arguments}
        # Maps each option of Kepler Core's command to True if the option needs a value. An option that had no effect
        # on the old command (e.g. -s of `train`) has the meaning that Kepler Core gives to it.
        self.present = {
            spelling: not (getattr(option, "is_flag", False) or getattr(option, "flag_value", None) == "")
            for option in (command.params if command is not None else ())
            for spelling in (*option.opts, *option.secondary_opts)
            if spelling.startswith("-")
        }
        options = []
        for option in OPTIONS:
            spellings = [n for n in option.names if option.name in self.old.options or n not in self.present]
            if spellings:
                options.append((option, spellings))
        self.values, self.rest = _parse(arguments, options)
        profile = self.values.get("--profile")
        if "--profile" in self.present and isinstance(profile, str) and os.path.splitext(profile)[1]:
            self.rest += ["--profile", self.values.pop("--profile")]
        self.has_argument = self._has_argument()

    def _has_argument(self) -> bool:
        """Return whether the command line has a word that is neither an option nor the value of an option."""
        needs_value = False
        for word in self.rest:
            if word.startswith("-") and word != "-":
                needs_value = self.present.get(word, False)
            elif needs_value:
                needs_value = False
            else:
                return True
        return False

    def is_old(self) -> bool:
        """Return whether the command line has a form that only kepler-model-server 0.7 knows."""
        if any(word in _OPTION_OF and word not in self.present for word in self.written):
            return True
        values = {name: value for name, value in self.values.items() if isinstance(value, str)}
        for name in ("--input", "--output", "--profile"):
            value = values.get(name, "")
            # If the command line does not contain `value` as a word, the user repeated the option, which Kepler Core
            # allows. `_parse` has then joined the values of the option with commas.
            parts = [value] if value in self.words else value.split(",")
            if any(is_old_file_name(part) for part in parts if part):
                return True
        if "," in values.get("--energy-source", ""):
            return True
        # Kepler Core's `train` accepts --energy-source only with tables
        if self.name == "train" and "--energy-source" in values and "--data" not in self.rest:
            return True
        lacks_default = any(not self._has(key) for key in self.old.old_defaults)
        return lacks_default and bool(self.values) and not any(word.startswith("-") for word in self.rest)

    def _has(self, key: str, words: Sequence[str] = ()) -> bool:
        """Return whether the command line or `words` has one of the options in `key`.

        If `key` contains ARGUMENT, also return True if the command line has a word that belongs to no option.
        """
        if key == "--server" and os.environ.get("PROM_SERVER"):
            return True
        given = {*self.values, *(word.partition("=")[0] for word in (*self.rest, *words))}
        return not given.isdisjoint(key.split()) or ("ARGUMENT" in key and self.has_argument)

    def new_form(self) -> str:
        """Return the error message that shows the new form of the old command line."""
        # words that only Kepler Core understands show that the user does not expect the old defaults
        values = {**({} if self.present and self.rest else self.old.defaults), **self.values}
        words, rest = self.old.new.split(), _without_secrets(self.rest)
        if self.has_argument and words[-1] == "default":  # the user names a pipeline, which replaces `default`
            words[-1:] = [rest.pop(0)] if not rest[0].startswith("-") else []
        notes = []
        for option, replacement in self.old.options.items():
            if option == "--data-path" or option not in values:
                continue
            value = values[option]
            words += _words(replacement, value, values)
            if replacement.note and not _is_choice(replacement, value):
                notes.append(f"{option}: {replacement.note}")
            if replacement.single and isinstance(value, str) and "," in value:
                notes.append(f"{option}: repeat the command for each value of {value}")
        notes += [f"{option}: not needed" for option in self.values if option not in self.old.options]
        for key, text in self.old.needed.items():
            words += text.split() if not self._has(key, words) else []
        words += rest
        if not self._has("--store -s"):
            words += [word.format_map({"data": _data_folder(values)}) for word in self.old.last.split()]
        more = f" ({'; '.join(notes)})" if notes else ""
        return printable(f"{self.name} is now: kepler-model {shlex.join(words)}{more}", _LINE_CHARACTERS)


def documented(replacement: Replacement) -> str:
    """Return the words that replace an old option, with placeholders: `--input FILE.json`. "" if there are none."""
    return replacement.new.format_map(_PLACEHOLDERS)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(
    arguments: Sequence[str], options: Sequence[tuple[OldOption, Sequence[str]]]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the old options in `arguments`, by the options' long names, and the other words.

    The value is None if the user gave the option without a value. The values of a repeated option are joined with
    commas.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option, spellings in options:
        settings: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
        match option.values:
            case "none":
                settings["action"] = "store_true"
            case "many":
                settings["nargs"] = "*"
            case _:
                settings |= {"nargs": "?", "action": "append"}
        parser.add_argument(*spellings, **settings)
    try:
        namespace, rest = parser.parse_known_args(list(arguments))
    except (ValueError, argparse.ArgumentError):
        return {}, []
    values = {}
    for option, _ in options:
        value = vars(namespace).get(option.name)
        if option.values == "one" and isinstance(value, list):
            value = ",".join(part for part in value if part is not None)
        if hasattr(namespace, option.name):
            values[option.name] = value or None
    return values, rest


def _without_secrets(words: Sequence[str]) -> list[str]:
    """Return words of a command line without the passwords in URLs and without the values of headers."""
    shown = []
    for before, word in zip(("", *words), words, strict=False):
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_header = "--header" in (before, option)
        value = "NAME: VALUE" if is_header and value else shown_location(value) if "://" in value else value
        shown.append(f"{option}{equals}{value}")
    return shown


def _words(replacement: Replacement, value: Any, values: dict[str, Any]) -> list[str]:
    """Return the words of the new command line that replace an old option with the value `value`."""
    if value == replacement.ignored:
        return []
    if value is None:
        return documented(replacement).split()
    template = replacement.choices.get(value, replacement.new) if isinstance(value, str) else replacement.new
    parts = list(value) if isinstance(value, list) else str(value).split(",")
    if replacement.single:
        parts = parts[:1]
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
    """Return the path of a file in the old data folder. kepler-model-server added a missing suffix to names.

    If the file exists in the current folder, but not in the old data folder, its name is returned unchanged.
    """
    path = os.path.join(folder, name if suffix in name else name + suffix)
    return name if name == "-" or (os.path.isfile(name) and not os.path.exists(path)) else path
