"""The consumer loop: receive, work, settle, retry, dead-letter, stop."""
