"""What Python imports first in a test's processes: counts the images that are opened, and may end them all.

`OPENED` names a file that grows by a byte for each; at `KILLED_AT` of them the whole process group is killed.
"""

import os
import signal

if "OPENED" in os.environ:
    from PIL import Image

    opened = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    last, reading = int(os.environ.get("KILLED_AT", 0)), Image.open

    def counting(*arguments, **options):
        os.write(opened, b".")
        if last and os.fstat(opened).st_size >= last:
            os.killpg(0, signal.SIGKILL)
        return reading(*arguments, **options)

    Image.open = counting
