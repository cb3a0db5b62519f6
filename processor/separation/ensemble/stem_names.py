"""Which stems of different models are the same thing: as audio-separator matches them, in the form of ``stem_key``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: Other names of what is left without the voice. The last one is in audio-separator's own table too, but an earlier
#: rule of its keeps it from being looked up there, and the voice is averaged with everything else.
_INSTRUMENTAL = frozenset({"inst", "karaoke", "no_vocals"})


def common_names(stems: Collection[str]) -> Mapping[str, str]:
    """What one model's ``stems`` (all of them) are called beside those of other models, by their own names.

    Every kind of voice but the lead and the backing ones is the voice; "other" is the instrumental if the voice is all
    there is besides.
    """
    pair = len(stems) == 2 and any("vocal" in stem for stem in stems)
    return {stem: _common_name(stem, of_a_pair=pair) for stem in stems}


def _common_name(stem: str, *, of_a_pair: bool) -> str:
    if stem in _INSTRUMENTAL or (stem == "other" and of_a_pair):
        return "instrumental"
    if "vocal" in stem and "lead" not in stem and "backing" not in stem:
        return "vocals"
    return stem
