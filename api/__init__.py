"""The front door: accepts jobs, says whether the service is ready, serves finished stems of the local store.

Knows no audio and uploads nothing.
"""

__version__ = "0.2.0"
