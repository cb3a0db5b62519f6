"""The ensembles that the installed audio-separator has names for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

from pydantic import ValidationError

from pipeline.model_choice import Ensemble
from pipeline.service.logs import get_logger
from processor.models.model_lists import upstream_data

log = get_logger(__name__)

#: audio-separator's file of presets.
_FILE = "ensemble_presets.json"


@functools.cache
def presets() -> Mapping[str, Ensemble]:
    """Return the presets by name, without those that are invalid here."""
    found = {}
    for name, preset in upstream_data(_FILE).get("presets", {}).items():
        try:
            found[name] = Ensemble.model_validate({**preset, "ensemble": preset.get("models")})
        except ValidationError:
            log.warning("preset_not_usable", preset=name)
    return found


def resolved(choice: str | Ensemble) -> str | Ensemble:
    """Return the ensemble that a preset's name stands for; return a model's name or an ensemble unchanged."""
    return presets().get(choice, choice) if isinstance(choice, str) else choice


def expand_presets(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of models; yield the models of an ensemble in place of a preset's name."""
    for name in names:
        choice = resolved(name)
        yield from (choice,) if isinstance(choice, str) else choice.ensemble
