"""The runs of tables 1 and 2: of each method one for each category, one for all together, or both."""

from __future__ import annotations

import glob
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvead_jax.comparison.categories_table import OURS, Column
from mvead_jax.comparison.paper_tables import Outcome
from mvead_jax.comparison.papers import SYSTEMS, beside
from mvead_jax.config.io import override
from mvead_jax.config.schema import Config
from mvead_jax.jobs.inputs import open_index
from mvead_jax.jobs.reproduce import Run, outcome


@dataclass(frozen=True)
class CategoryRuns:
    """The runs of one method.

    Attributes:
      name: of its column: OURS, or that of a config, which begins the names of its runs.
      method: its name. systems: of the papers, beside which it stands.
      runs: by setting, "single" or "multi": those that are wanted, and those of earlier calls.
      wanted: the names of those that this call asks for.
    """

    name: str
    method: str
    systems: Sequence[str]
    runs: Mapping[str, Sequence[Run]]
    wanted: frozenset[str]

    @classmethod
    def of(cls, config: Config, settings: Sequence[str], output: Path, name: str = OURS) -> CategoryRuns:
        """Return the runs of a config, whose data.categories are those that are wanted.

        Raises:
          UserError: as `open_index`.
        """
        prefix = "" if name == OURS else f"{name}__"
        runs: dict[str, list[Run]] = {setting: [] for setting in settings}
        chosen: Sequence[str] = ()
        if "single" in runs:
            # Also those of an earlier call with other categories: the table shows all that there is.
            start = f"{prefix}single-"
            there = {path.name.removeprefix(start) for path in output.glob(f"{glob.escape(start)}*")}
            chosen = open_index(config).categories
            for category in sorted({*chosen, *there}):
                own = override(config, {"setting": "single", "data.categories": category})
                runs["single"].append(Run(f"{start}{category}", own))
        if "multi" in runs:
            runs["multi"].append(Run(f"{prefix}multi", override(config, {"setting": "multi"})))
        wanted = {f"{prefix}single-{category}" for category in chosen} | {
            one.name for one in runs.get("multi", ())
        }
        system = beside(config.method)
        systems = SYSTEMS if name == OURS else (system,) if system else ()
        return cls(name, config.method, systems, runs, frozenset(wanted))

    @property
    def all(self) -> list[Run]:
        """All runs."""
        return [one for own in self.runs.values() for one in own]

    def column(
        self, output: Path, failed: Mapping[str, str], finished: MutableMapping[str, Outcome]
    ) -> Column:
        """Return what the runs have come to: those that are wanted, and others that are finished.

        Args:
          finished: by name, what earlier calls found; more is put into it.
        """

        def found(one: Run) -> Outcome:
            if one.name in finished and one.name not in failed:
                return finished[one.name]
            own = outcome(one, output, failed.get(one.name))
            if own.metrics and not own.error:
                finished[one.name] = own
            return own

        outcomes = {
            setting: {one.name: found(one) for one in own if one.name in self.wanted or found(one).metrics}
            for setting, own in self.runs.items()
        }
        return Column(self.name, self.method, self.systems, outcomes)
