"""The quality and the speed of the sample-rate conversion, compared with other converters; writes docs/AUDIO.md."""
