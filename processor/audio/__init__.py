"""Untrusted audio files: recognise, probe and decode them."""
