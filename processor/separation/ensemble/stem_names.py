"""Correspondence of stems between models, as audio-separator defines it, in the form of ``pipeline.stem_name``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

#: Other names of the instrumental. The last one is also in audio-separator's own table, but an earlier rule there
#: prevents its use, and audio-separator averages it with the vocals.
_INSTRUMENTAL = frozenset({"inst", "karaoke", "no_vocals"})


def common_names(stems: Collection[str]) -> Mapping[str, str]:
    """Return the common name of each of one model's ``stems``, of which all must be given.

    Every kind of vocals except lead and backing vocals is "vocals". "other" is the instrumental if the model's only
    other stem is a kind of vocals.
    """
    pair = len(stems) == 2 and any("vocal" in stem for stem in stems)
    names = {}
    for stem in stems:
        if stem in _INSTRUMENTAL or (stem == "other" and pair):
            names[stem] = "instrumental"
        elif "vocal" in stem and "lead" not in stem and "backing" not in stem:
            names[stem] = "vocals"
        else:
            names[stem] = stem
    return names
