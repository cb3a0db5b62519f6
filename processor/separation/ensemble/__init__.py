"""Ensembles: several models separate one song, and their stems of the same name are combined into one.

* ``separator``: the ensemble as a ``Separator``; its models run one after the other, their stems are kept on the disk;
* ``stem_files``: the stems of one model on the disk;
* ``stem_names``: which stems of different models correspond to each other;
* ``combine``: combines several files into the blocks of one stem, with any of the algorithms;
* ``waveform_combiners``, ``stft_combiners``: the algorithms for samples and for short-time spectra.

The result equals that of audio-separator's ``Ensembler`` for the same stems, in memory that does not depend on the
song's length. It differs where a song ends within a hop of the transform: see ``stft_combiners``.
"""
