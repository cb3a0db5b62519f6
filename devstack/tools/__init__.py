"""Third-party programs: fetched once, kept in a cache."""
