"""The ensembles that the installed audio-separator has names for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.model_choice import Ensemble
from pipeline.service.logs import get_logger
from processor.models.model_lists import bundled

log = get_logger(__name__)

#: audio-separator's own file of them.
_FILE = "ensemble_presets.json"


@functools.cache
def presets() -> Mapping[str, Ensemble]:
    """By name. Those that cannot be used are left out."""
    found = {}
    for name, preset in bundled(_FILE).get("presets", {}).items():
        try:
            found[name] = _ensemble(preset)
        except ValidationError:
            log.warning("preset_not_usable", preset=name)
    return found


def _ensemble(preset: dict[str, Any]) -> Ensemble:
    return Ensemble.model_validate({**preset, "ensemble": preset.get("models")})


def resolved(choice: str | Ensemble) -> str | Ensemble:
    """A model's name, or an ensemble, which the name of a preset stands for."""
    return presets().get(choice, choice) if isinstance(choice, str) else choice


def expanded(names: Iterable[str]) -> Iterator[str]:
    """The names of models among ``names``, and those of the models that presets among them stand for."""
    for name in names:
        choice = resolved(name)
        yield from (choice,) if isinstance(choice, str) else choice.ensemble
