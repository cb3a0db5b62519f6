"""``python -m deploy.probe PATH VARIABLE``: asks the service of this container how it is.

For health checks, since slim images have no curl. ``VARIABLE`` names the setting that holds the service's port. Exits
with 0 if the answer is 200, else with 1; the answer, or what is in its place, goes to stdout for ``docker inspect``.
"""

from __future__ import annotations

import http.client
import os
import sys

#: s; below the time-out of the health checks.
TIMEOUT = 4.0


def main(path: str, variable: str) -> int:
    """Ask once."""
    try:
        # Not urllib: it would ask a proxy that the environment names.
        connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[variable]), timeout=TIMEOUT)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(body.decode(errors="replace") + "\n")
    return 0 if response.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
