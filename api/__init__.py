"""The HTTP API: accepts jobs, reports readiness and serves finished stems of the local store.

It neither decodes audio nor uploads stems.
"""

__version__ = "0.2.0"
