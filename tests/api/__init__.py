"""Tests of the front door, through a real server."""
