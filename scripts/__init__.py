"""Checks and generators for contributors. No service imports them."""
