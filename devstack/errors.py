"""Errors of fetching and starting the development servers."""


class DevstackError(RuntimeError):
    """A server is not available; the message can be shown to the user as it is."""


class ToolUnavailableError(DevstackError):
    """A tool that fetches or runs the server is missing; the message is one sentence that names what to install."""


class ServerStartError(DevstackError):
    """The server did not start; the message gives the reason and the end of its log."""
