"""The table of processors and cloud instances: threads, thermal design power, year, and the sizes of hosts.

The table is part of Kepler Core (`machines/processors.json` and `machines/instances.json` in `kepler_config`). Each row
names its source. `lookup` finds a processor by the name that the CPU reports, whatever its spelling. `instance_type`
finds the family of a cloud instance by the instance's name, for example "m5.2xlarge".
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from kepler_core.documents import DocumentError, Text, decode_json
from kepler_core.errors import KeplerError, UsageError, close_matches
from kepler_core.messages import printable
from kepler_core.processor_names import comparable_processor

T = TypeVar("T")

MAX_ROWS = 5_000
LAYOUT = 1
"""Version of the layout of both files. A file with another version is rejected."""

_BEGINNINGS = ("", "Intel ", "Intel Xeon ", "Intel Core ", "AMD ", "AMD EPYC ", "AMD Ryzen ", "AWS ")
"""`lookup` puts these texts before a name, one after another, until the table contains the result."""
_SHOWN_CHARACTERS = 60
_AZURE_SIZE = re.compile(r"standard_[a-z]+([0-9]{1,4})[a-z]*(?:-[0-9]+[a-z]*)?(?:_v[0-9]+)?")
_AMAZON_SIZE = re.compile(r"[a-z0-9]+\.(?:large|([0-9]{1,3})?xlarge)")
_GOOGLE_SIZE = re.compile(r"[a-z0-9]+-(?:standard|highmem|highcpu)-([0-9]{1,4})")

_Count = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
_Watts = Annotated[float, msgspec.Meta(gt=0, le=5_000)]
_Year = Annotated[int, msgspec.Meta(ge=1990, le=2100)]


class ProcessorTableError(KeplerError):
    """The table of processors or of cloud instances cannot be used."""


class Processor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the table of processors. A fact that is not known, e.g. not published, is None."""

    model: Text
    """Name of the processor, for readers: "Intel Xeon Platinum 8259CL"."""
    vendor: Text
    source: Text
    """Key of the source in the table's list of sources."""
    architecture: Text
    """Name of the microarchitecture in lower case: "cascadelake", "zen3", "neoverse-n1"."""
    cores: _Count | None = None
    """Cores of one chip."""
    threads: _Count | None = None
    """Threads of one chip."""
    tdp_watts: _Watts | None = None
    """Thermal design power of one chip in watts."""
    year: _Year | None = None
    """Year of introduction."""
    client: bool = False
    """Whether the processor is made for desktops and laptops, not for servers."""


class ProcessorTable(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file `machines/processors.json`."""

    layout: int
    sources: dict[Text, Text]
    """Descriptions of the sources, by the key of the source."""
    processors: Annotated[list[Processor], msgspec.Meta(max_length=MAX_ROWS)]


class InstanceFamily(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A family of cloud instances that run on hosts of one kind."""

    provider: Text
    """"aws", "azure", "gcp" or "hetzner"."""
    family: Text
    """Prefix of the names of the family's instances: "m5" for m5.large, "n2" for n2-standard-4."""
    processors: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=20)]
    """Names of the processors that the hosts may have. All of them are in the table of processors."""
    source: Text
    host_threads: _Count | None = None
    """Number of logical CPUs of a host; None if the provider does not publish it."""
    host_chips: _Count | None = None
    host_memory_gib: Annotated[float, msgspec.Meta(gt=0, le=1_048_576)] | None = None


class InstanceTable(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file `machines/instances.json`."""

    layout: int
    sources: dict[Text, Text]
    instances: Annotated[list[InstanceFamily], msgspec.Meta(max_length=MAX_ROWS)]


def lookup(model_name: str) -> Processor | None:
    """Return the processor with a name, or None if the table does not list it.

    `model_name` is a name in any spelling: as in /proc/cpuinfo, as Kepler sends it, or normalised by
    `kepler_core.processor_names`. The vendor and the family may be left out: "i7-8700", "Gold 6230".
    """
    by_name = _by_name()
    for beginning in _BEGINNINGS:
        if (processor := by_name.get(comparable_processor(beginning + model_name))) is not None:
            return processor
    return None


def similar_processors(model_name: str) -> str:
    """Return similar names in the table, to end an error message about a processor that `lookup` does not find."""
    by_name = _by_name()
    name = comparable_processor(model_name) or model_name.casefold()[:200]
    rows = {processor.model: key for key, processor in by_name.items()}
    message = close_matches(name, rows.values())
    for model, key in rows.items():
        message = message.replace(f" {key}?", f" {model}?").replace(f" {key} or", f" {model} or")
    return message


def instance_type(name: str) -> InstanceFamily | None:
    """Return the family of a cloud instance, or None if the table does not list it.

    `name` is the name of an instance type: "m5.2xlarge" (AWS), "Standard_D4s_v5" (Azure), "n2-standard-8" (GCP) or
    "cpx31" (Hetzner).
    """
    return _by_family().get(instance_family(name))


def stated_instance_type(name: str) -> InstanceFamily:
    """Return the family of the cloud instance that a user states with --instance; see `instance_type`.

    Raises `UsageError` if the table does not list it.
    """
    family = instance_type(name)
    if family is None:
        hint = close_matches(instance_family(name), [row.family for row in instances()])
        raise UsageError(
            f"--instance {printable(name, _SHOWN_CHARACTERS)}: its family is not in the table of instances; {hint} "
            "(`kepler-model machines list --instances` lists the table)"
        )
    return family


def instance_family(name: str) -> str:
    """Return the family in the name of an instance type, in lower case: "m5", "dsv5", "n2", "cpx"."""
    text = name.strip().casefold()[:100]
    if text.startswith("standard_"):
        text = text.removeprefix("standard_")
        size, _, version = text.partition("_v")
        letters = "".join(character for character in size.split("-")[0] if not character.isdigit())
        return letters + (f"v{version}" if version else "")
    if "." in text:
        return text.partition(".")[0]
    if "-" in text:
        return text.partition("-")[0]
    return text.rstrip("0123456789")


def instance_vcpus(name: str) -> int | None:
    """Return the number of virtual CPUs in the name of an instance type; None if the name does not contain it."""
    text = name.strip().casefold()[:100]
    if azure := _AZURE_SIZE.fullmatch(text):
        return int(azure[1])
    if amazon := _AMAZON_SIZE.fullmatch(text):
        return 4 * int(amazon[1] or 1) if text.endswith("xlarge") else 2
    if google := _GOOGLE_SIZE.fullmatch(text):
        return int(google[1])
    return None


def processors() -> tuple[Processor, ...]:
    """Return all processors in the table."""
    return tuple(_processor_table().processors)


def instances() -> tuple[InstanceFamily, ...]:
    """Return all families of cloud instances in the table."""
    return tuple(_instance_table().instances)


def sources() -> Mapping[str, str]:
    """Return the descriptions of all sources in the tables of processors and instances, by key."""
    return {**_processor_table().sources, **_instance_table().sources}


def decode_processors(content: bytes, document: str) -> ProcessorTable:
    """Decode a table of processors. Raises `ProcessorTableError`.

    `document` is the name of the table for error messages.
    """
    table = _decoded(content, ProcessorTable, document)
    _check_layout(table.layout, document)
    seen: dict[str, str] = {}
    for row, processor in enumerate(table.processors):
        path = ("processors", row)
        if processor.source not in table.sources:
            raise ProcessorTableError(f"source {processor.source!r} is not listed", path=path, document=document)
        if (name := comparable_processor(processor.model)) == "":
            raise ProcessorTableError(f"{processor.model!r} names no processor", path=path, document=document)
        if name in seen:
            raise ProcessorTableError(f"{processor.model!r} repeats {seen[name]!r}", path=path, document=document)
        if processor.cores and processor.threads and processor.threads < processor.cores:
            raise ProcessorTableError("fewer threads than cores", path=path, document=document)
        seen[name] = processor.model
    return table


def decode_instances(content: bytes, document: str) -> InstanceTable:
    """Decode a table of cloud instances. Raises `ProcessorTableError`.

    `document` is the name of the table for error messages.
    """
    table = _decoded(content, InstanceTable, document)
    _check_layout(table.layout, document)
    seen: set[str] = set()
    for row, family in enumerate(table.instances):
        path = ("instances", row)
        if family.source not in table.sources:
            raise ProcessorTableError(f"source {family.source!r} is not listed", path=path, document=document)
        if family.family in seen:
            raise ProcessorTableError(f"{family.family!r} is listed twice", path=path, document=document)
        seen.add(family.family)
    return table


def _decoded(content: bytes, kind: type[T], document: str) -> T:
    try:
        return decode_json(content, kind)
    except DocumentError as error:
        raise ProcessorTableError(error.message, document=document) from error


def _check_layout(layout: int, document: str) -> None:
    if layout != LAYOUT:
        raise ProcessorTableError(f"layout {layout}; this version reads layout {LAYOUT}", document=document)


def _content(name: str) -> Any:
    file = importlib.resources.files("kepler_config") / "machines" / name
    try:
        return file.read_bytes()
    except OSError as error:
        raise ProcessorTableError(str(error.strerror or error), document=f"machines/{name}") from error


@functools.cache
def _processor_table() -> ProcessorTable:
    return decode_processors(_content("processors.json"), "machines/processors.json")


@functools.cache
def _instance_table() -> InstanceTable:
    return decode_instances(_content("instances.json"), "machines/instances.json")


@functools.cache
def _by_name() -> dict[str, Processor]:
    return {comparable_processor(processor.model): processor for processor in _processor_table().processors}


@functools.cache
def _by_family() -> dict[str, InstanceFamily]:
    return {family.family: family for family in _instance_table().instances}
