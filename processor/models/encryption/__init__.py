"""Model files that are encrypted at rest."""
