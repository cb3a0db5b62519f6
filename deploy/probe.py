"""Checks the health of the service in this container: ``python -m deploy.probe PATH VARIABLE``.

Slim images have no curl. ``VARIABLE`` is the name of the setting with the service's port. The command exits with 0 if
the response has status 200, and with 1 otherwise. It prints the response or the error, for ``docker inspect``.
"""

from __future__ import annotations

import http.client
import os
import sys

from pipeline.service.arguments import CommandParser

#: Shorter than the timeout of the health checks, s.
TIMEOUT = 4.0


def main(path: str, variable: str) -> int:
    """Send one request and return the exit status."""
    port = os.environ.get(variable, "")
    if not port.isdecimal():
        sys.stdout.write(f"{variable} must be set to the port of the service\n")
        return 1
    try:
        # Not urllib: it would use a proxy of the environment.
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(body.decode(errors="replace") + "\n")
    return 0 if response.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    parser = CommandParser("deploy.probe", description="Check the health of the service in this container.")
    parser.add_argument("path", metavar="PATH", help="such as /ready")
    parser.add_argument("variable", metavar="VARIABLE", help="the setting with the port of the service")
    given = parser.parse_args()
    sys.exit(main(given.path, given.variable))
