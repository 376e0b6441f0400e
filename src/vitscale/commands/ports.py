"""Where the demo can listen."""

import errno
import socket

from vitscale.base.errors import UserError

FIRST = 7860  # port


def free_port(host: str, port: int | None) -> int:
    """Return a port, or the first of a hundred, that can be listened at. Raises UserError for none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = range(FIRST, FIRST + 100) if port is None else [port]
    for each in ports:
        try:
            if not 0 < each < 65536:
                raise OSError("ports go from 1 to 65535")
            socket.create_server((host, each), family=family).close()
            return each
        except OSError as error:
            fault = error
            if error.errno != errno.EADDRINUSE:
                break
    where = f"port {port}" if port is not None else f"the ports {ports[0]} to {ports[-1]}"
    raise UserError(f"{where} of {host} can't be listened at ({fault}); give another --host or --port")
