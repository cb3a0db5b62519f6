"""One job at a time per device: fetch, decode, separate, hand off."""
