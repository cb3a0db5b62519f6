"""How bytes come: connections to the very address that was checked, proxies, TLS, pace, deadlines, what goes wrong."""
