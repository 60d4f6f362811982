"""The machines of a fleet that the option --machine-specs describes, in a file or by metrics in the recordings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from kepler_core.atomic_files import whole_file
from kepler_core.cli.inputs import FROM_METRICS, read_machine_specs
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.machine import MachineSpec
    from kepler_core.pipeline.machine_groups import MachineGroup
    from kepler_core.pipeline.recorded_machines import RecordedMachines
    from kepler_core.recording.observations import Observations


@attrs.frozen(eq=False)
class FleetMachines:
    """Descriptions of the machines of several nodes."""

    described: Mapping[str, MachineSpec] | RecordedMachines
    """Node -> description, from a file; or what metrics in the recordings state."""

    def most_cores(self) -> int | None:
        """Return the number of CPUs of the largest machine; None if it is not known for all machines."""
        from kepler_core.pipeline.machine_groups import most_cores

        return most_cores(self.described) if isinstance(self.described, Mapping) else self.described.most_cores()

    def groups(
        self, observations: Observations, idle: Observations | None = None
    ) -> tuple[list[MachineGroup], tuple[str, ...]]:
        """Divide observations by the type of their nodes. Also return notes about problems of the descriptions."""
        from kepler_core.pipeline.machine_groups import groups_from_metrics, machine_groups

        if isinstance(self.described, Mapping):
            return machine_groups(observations, self.described, idle), ()
        return groups_from_metrics(observations, self.described, idle)

    def write(self, observations: Observations, path: str) -> None:
        """Write the descriptions that metrics state to a JSON file. A node without a description gets an empty one."""
        assert not isinstance(self.described, Mapping)
        specs = self.described.of_streams(observations.streams).specs
        document = {
            stream.node: specs[stream].as_dict() if stream in specs else {} for stream in reversed(observations.streams)
        }
        try:
            with whole_file(Path(path)) as file:
                file.write(json.dumps(dict(sorted(document.items())), indent=1).encode() + b"\n")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def fleet_machines(option: str | None, recordings: Sequence[str], metric_prefix: str | None) -> FleetMachines | None:
    """Return the machines that the value of --machine-specs describes; None if the option was not used."""
    if option is None:
        return None
    if option != FROM_METRICS:
        return FleetMachines(read_machine_specs(option))
    from kepler_core.pipeline.recorded_machines import read_machines

    return FleetMachines(read_machines(recordings, metric_prefix))
