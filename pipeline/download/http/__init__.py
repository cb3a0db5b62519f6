"""The HTTP client: connections to checked addresses, proxies, TLS, rate limits, deadlines, translation of errors."""
