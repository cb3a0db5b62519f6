"""What can go wrong between "start a real server" and a server that answers."""


class DevstackError(RuntimeError):
    """A server could not be had; the message is fit to be shown to the user as it is."""


class ToolUnavailableError(DevstackError):
    """Something to fetch or run the server with is missing: one sentence that says what to install."""


class ServerStartError(DevstackError):
    """The server was there but did not come up: why, and the end of its log."""
