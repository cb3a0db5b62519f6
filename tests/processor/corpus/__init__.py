"""A corpus of sources in every container and codec, compared with the song, the ``ffmpeg`` command and libsndfile."""
