"""The commands and options of kepler-model-server 0.7, and their new forms.

A replacement is written as words of a new command line. These fields are filled in from the old command line:

    {value}     the value of the old option
    {list}      the values of an option that had several values, e.g. `A,B`
    {json}, {csv}, {png}    the file in the old data folder, with this suffix added if the value has no suffix
    {trainer}   the trainer in the name of a model: the name without `_<node type>`
    {folder}    the folder of the exported pipeline, inside the folder that the old option names
    {data}      the old data folder
    {kind}, {other}    `abs` and `dyn`; but `dyn` and `abs` if the old option --output-type is DynPower

The user must fill in words in capitals, such as FILE and TIME.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class OldOption:
    """An option of kepler-model-server 0.7. Each command of kepler-model-server accepted all options."""

    names: tuple[str, ...]
    """Spellings of the option; the last one is the long name."""
    values: str = "one"
    """How many values the option has: "one", "none" or "many"."""

    @property
    def name(self) -> str:
        return self.names[-1]


@attrs.frozen
class Replacement:
    """The new words that replace an option of an old command, and a remark."""

    new: str = ""
    """The words of the new command line that replace the option; empty if the option is not replaced."""
    note: str = ""
    each: bool = False
    """True: the option's value is a list separated by commas, and the new words are repeated for each item."""
    choices: Mapping[str, str] = attrs.field(factory=dict)
    """Maps values of the old option to new words. For these values, the new words take the place of `new`."""
    single: bool = False
    """True: the option's value is a list separated by commas, and the new words contain only its first item."""
    ignored: str = ""
    """A value that adds no words to the new command line, because it was the default of the old option."""


@attrs.frozen
class OldCommand:
    """The new form of a command of kepler-model-server 0.7."""

    new: str
    """The first words of the new command line, after `kepler-model`."""
    options: Mapping[str, Replacement]
    """Maps the long names of the old command's options to their replacements. Other options had no effect."""
    last: str = ""
    """The last words of the new command line."""
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    """Maps old options to those default values that differ from the new defaults. The new form states these values."""
    needed: Mapping[str, str] = attrs.field(factory=dict)
    """Maps each group of options (separated by blanks) to the text of a new option.

    The new command needs at least one option of each group. If the user gave no option of a group, the group's text is
    added to the new command line. ARGUMENT stands for an argument of the new command that is not an option.
    """
    old_defaults: tuple[str, ...] = ()
    """Groups of options (separated by blanks) that the old command line could leave out, because they had a default.

    The new command line must contain one option of each group.
    """


OPTIONS = (
    OldOption(("--data-path",)),
    OldOption(("-i", "--input")),
    OldOption(("-o", "--output")),
    OldOption(("-s", "--server")),
    OldOption(("--interval",)),
    OldOption(("--start-time",)),
    OldOption(("--end-time",)),
    OldOption(("--step",)),
    OldOption(("--metric-prefix",)),
    OldOption(("-tm", "--thirdparty-metrics"), "many"),
    OldOption(("--to-csv",)),
    OldOption(("-p", "--pipeline-name")),
    OldOption(("--extractor",)),
    OldOption(("--isolator",)),
    OldOption(("--profile",)),
    OldOption(("--target-hints",)),
    OldOption(("--bg-hints",)),
    OldOption(("--abs-pipeline-name",)),
    OldOption(("-e", "--energy-source")),
    OldOption(("--abs-trainers",)),
    OldOption(("--dyn-trainers",)),
    OldOption(("--trainers",)),
    OldOption(("--vm-train",), "none"),
    OldOption(("--benchmark",)),
    OldOption(("-ot", "--output-type")),
    OldOption(("-fg", "--feature-group")),
    OldOption(("--model-name",)),
    OldOption(("--target-data",)),
    OldOption(("--scenario",)),
    OldOption(("--publisher",)),
    OldOption(("--include-raw",)),
    OldOption(("--collect-date",)),
    OldOption(("--zip",)),
    OldOption(("--id",)),
)

_PATHS = Replacement("", "there is no data folder: give the path of each file")
_STORE = Replacement("--store {value}", "the store contains only the models; give the paths of all other files")
_RECORDINGS = Replacement("--input {json}", each=True)
_THIRD_PARTY = Replacement("--set third_party=[{list}]")
_TIMES_KNOWN = Replacement("", "not needed: a recording contains its start and end time")
_AS_TRAINED = Replacement("", "not needed: the new command uses the settings with which the model was trained")
_MACHINE = Replacement(
    "--machine-spec SPEC.json --machine-id {value}",
    "kepler-model profile machine -o SPEC.json writes the description of the machine on which it runs",
)
_TARGETS = "--set isolator={{name: trainer, args: {{target_hints: [{list}]}}}}"
_BACKGROUND = "--set isolator={{name: trainer, args: {{background_hints: [{list}]}}}}"
_ISOLATION = {
    "--isolator": Replacement("--isolator {value}"),
    "--profile": Replacement("--idle {json}"),
    "--target-hints": Replacement(_TARGETS),
    "--bg-hints": Replacement(_BACKGROUND),
    "--abs-pipeline-name": Replacement("--store {data} --name {value}"),
    "--pipeline-name": Replacement("", "not needed: isolate saves no profile; kepler-model profile build saves one"),
}
_EXTRACTION = {
    "--data-path": _PATHS,
    "--input": _RECORDINGS,
    "--output": Replacement("--output {csv}", "the new file name has no prefix extracted_ or isolated_"),
    "--feature-group": Replacement("--feature-group {value}"),
    "--energy-source": Replacement("--energy-source {value}", single=True),
    "--thirdparty-metrics": _THIRD_PARTY,
}
_CHOICE = {
    "--data-path": _STORE,
    "--input": _RECORDINGS,
    "--pipeline-name": Replacement("--pipeline {value}"),
    "--energy-source": Replacement("--source {value}", single=True),
    "--output-type": Replacement("--output-type {value}"),
    "--feature-group": Replacement("--feature-group {value}"),
    "--model-name": Replacement("--trainer {trainer}"),
    "--thirdparty-metrics": Replacement("", "not needed: the models state which metrics they use"),
    "--profile": _AS_TRAINED,
    "--target-hints": _AS_TRAINED,
    "--bg-hints": _AS_TRAINED,
    "--abs-pipeline-name": _AS_TRAINED,
}
_NO_EXTRACTOR = Replacement("", "not needed: the plot shows the recorded values, without extraction or isolation")

COMMANDS = {
    "query": OldCommand(
        "query",
        {
            "--data-path": _PATHS,
            "--input": Replacement("--start TIME --end TIME", "the times that the old input file contains"),
            "--output": Replacement("--output {json}"),
            "--server": Replacement("--server {value}"),
            "--interval": Replacement("--last {value}s", "the letter s means seconds"),
            "--start-time": Replacement("--start {value}"),
            "--end-time": Replacement("--end {value}"),
            "--step": Replacement("--step {value}"),
            "--metric-prefix": Replacement("--metric-prefix {value}"),
            "--thirdparty-metrics": Replacement("--pipeline default --set third_party=[{list}]"),
            "--to-csv": Replacement("--to-csv"),
            "--benchmark": _TIMES_KNOWN,
            "--id": Replacement("", "kepler-model profile machine -o SPEC.json describes the machine on which it runs"),
        },
        needed={
            "--output": "--output FILE.json",
            "--input --start --last --interval --start-time": "--last DURATION",
            "--server": "--server http://localhost:9090",
        },
        old_defaults=("--server",),
    ),
    "validate": OldCommand(
        "validate",
        {
            "--data-path": _PATHS,
            "--input": Replacement("{json}"),
            "--output": Replacement("--json", "--json prints the report; redirect the standard output to a file"),
            "--benchmark": Replacement("", "not needed: the new command does not group containers"),
        },
        needed={"--input ARGUMENT": "FILE.json"},
    ),
    "extract": OldCommand(
        "extract",
        {
            **_EXTRACTION,
            "--extractor": Replacement("--extractor {value}"),
            "--output-type": Replacement(
                "--level node|container", choices={"AbsPower": "--level node", "DynPower": "--level container"}
            ),
        },
        needed={"--input": "--input FILE.json", "--output": "--output FILE.csv"},
    ),
    "isolate": OldCommand(
        "isolate",
        {
            **_EXTRACTION,
            "--extractor": Replacement("--extractor {value}"),
            **_ISOLATION,
            "--output-type": Replacement("", "not needed: each row of the table describes a container"),
        },
        needed={"--input": "--input FILE.json", "--output": "--output FILE.csv"},
    ),
    "isolate_from_data": OldCommand(
        "isolate",
        {
            **_EXTRACTION,
            "--input": Replacement("--input RECORDING", "the recording itself, not the table that extract wrote"),
            **_ISOLATION,
        },
        needed={"--input": "--input RECORDING", "--output": "--output FILE.csv"},
    ),
    "train_from_data": OldCommand(
        "train default",
        {
            "--data-path": _STORE,
            "--input": Replacement("--data {csv}"),
            "--pipeline-name": Replacement("--name {value}"),
            "--feature-group": Replacement("--set feature_groups=[{value}]"),
            "--energy-source": Replacement("--energy-source {value}", single=True),
            "--output-type": Replacement("--set {other}_trainers=[]"),
            "--trainers": Replacement("--set {kind}_trainers=[{list}]"),
            "--thirdparty-metrics": _THIRD_PARTY,
            "--id": _MACHINE,
        },
        last="--store {data}",
        defaults={"--output-type": "AbsPower", "--trainers": "XgboostFitTrainer", "--energy-source": "rapl-sysfs"},
        needed={"--input": "--data FILE.csv"},
    ),
    "train": OldCommand(
        "train default",
        {
            "--data-path": _STORE,
            "--input": _RECORDINGS,
            "--pipeline-name": Replacement("--name {value}"),
            "--extractor": Replacement("--set extractor={value}"),
            "--isolator": Replacement("--set isolator={value}"),
            "--profile": Replacement("--idle {json}", "the new option --profile has another meaning"),
            "--target-hints": Replacement(_TARGETS),
            "--bg-hints": Replacement(_BACKGROUND),
            "--abs-pipeline-name": Replacement(
                "", "not needed: the isolator uses the AbsPower models of the same training"
            ),
            "--abs-trainers": Replacement("--set abs_trainers=[{list}]", ignored="default"),
            "--dyn-trainers": Replacement("--set dyn_trainers=[{list}]", ignored="default"),
            "--energy-source": Replacement("--set energy_sources=[{list}]"),
            "--thirdparty-metrics": _THIRD_PARTY,
            "--vm-train": Replacement("--set use_vm_metrics=true"),
            "--id": _MACHINE,
        },
        last="--store {data}",
        defaults={"--energy-source": "rapl-sysfs"},
        needed={"--input --data": "--input FILE.json"},
        old_defaults=("ARGUMENT",),
    ),
    "estimate": OldCommand(
        "estimate",
        {
            **_CHOICE,
            "--output": Replacement("--output {csv}", "the new command writes one file, not a folder"),
            "--id": Replacement("", "not needed: the new command never writes an archive of the model"),
        },
        last="--store {data}",
        needed={"--input": "--input FILE.json"},
        old_defaults=("--store -s",),
    ),
    "plot": OldCommand(
        "plot",
        {
            **_CHOICE,
            "--output": Replacement("--output {png}", "the new command writes one file, not a folder"),
            "--target-data": Replacement(
                "--kind KIND",
                "use the kind usage in place of preprocess, errors in place of error and metadata, curve in place of "
                "power_curve, and scatter, time or curve in place of estimate",
                choices={
                    "preprocess": "--kind usage",
                    "estimate": "--kind scatter --kind time --kind curve",
                    "error": "--kind errors",
                    "metadata": "--kind errors",
                    "power_curve": "--kind curve",
                },
            ),
            "--extractor": _NO_EXTRACTOR,
            "--isolator": _NO_EXTRACTOR,
        },
        last="--store {data}",
        needed={"--output": "--output FILE.png"},
    ),
    "plot_scenario": OldCommand(
        "plot --kind usage",
        {
            "--data-path": _PATHS,
            "--input": _RECORDINGS,
            "--output": Replacement("--output {png}", "the new command writes one file, not a folder"),
            "--energy-source": Replacement("--source {value}", single=True),
            "--benchmark": Replacement("", "record only the pods of the scenario: query --selector 'pod_name=~\"…\"'"),
            "--scenario": Replacement("", "record only the pods of the scenario: query --selector 'pod_name=~\"…\"'"),
            "--output-type": Replacement("", "not needed: the new command draws the usage of nodes"),
            "--feature-group": Replacement("", "not needed: the new command draws all features"),
            "--target-data": _NO_EXTRACTOR,
            "--extractor": _NO_EXTRACTOR,
            "--isolator": _NO_EXTRACTOR,
        },
        needed={"--input": "--input FILE.json", "--output": "--output FILE.png"},
    ),
    "export": OldCommand(
        "store export",
        {
            "--data-path": _STORE,
            "--pipeline-name": Replacement("{value}"),
            "--output": Replacement("--output {folder}", "the folder of the pipeline itself"),
            "--publisher": Replacement("--publisher {value}"),
            "--collect-date": Replacement("--collect-date {value}"),
            "--benchmark": Replacement("--collect-date DATE", "the start time that the old benchmark file contains"),
            "--input": Replacement("", "not needed: the exported README does not list the workloads"),
            "--zip": Replacement("", "kepler-model store export NAME -o FILE.zip writes a zip file"),
            "--include-raw": Replacement("", "not needed: it had no effect"),
        },
        last="--for model-db --max-error mae:10;mape:100 --max-error mape:20;mae:100 --store {data}",
        needed={"--pipeline-name": "PIPELINE", "--output": "--output FOLDER"},
    ),
}
"""Maps the names of the old commands to their new forms."""
