"""The main memory that this process has held at its highest."""

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
PEAK_OF_STATUS = "VmHWM:"


def peak_memory() -> int:
    """Bytes of main memory that this program has held at its highest.

    Linux's `getrusage` counts what the process held before it became this program too: started by a
    large one, a small program looks as large. Its status file counts from the program's start.
    """
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith(PEAK_OF_STATUS):
                kibibytes = line.split()[1]
                return int(kibibytes) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # type: ignore[import-untyped]  # comes with accelerate

        found = psutil.Process().memory_info()
        return getattr(found, "peak_wset", found.rss)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # bytes there, KiB elsewhere
        return highest
    return highest * 1024
