"""Untrusted audio is probed and decoded in a disposable process without credentials, network or foreign files."""
