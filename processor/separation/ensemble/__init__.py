"""Several models over one song, and their stems of the same name combined into one.

* ``driver``: the ensemble as one more ``Separator``: its models run one after the other, their stems wait on the disk;
* ``names``: which stems of different models are the same thing;
* ``combine``: several files to the blocks of one stem, by any of the algorithms;
* ``waves``, ``spectra``: those that work on samples, and those that work on short-time spectra.

What comes out is what audio-separator's ``Ensembler`` makes of the same stems, in memory that does not depend on the
song's length. It differs where a song ends within a hop of the transform: see ``spectra``.
"""
