"""What a machine must have to run marspipe: each check answers with one sentence that says what to install.

``python3 marspipe/machine.py`` checks before anything is installed, so this file keeps to what every Python 3 can read.
"""

import os
import re
import shutil
import subprocess
import sys

PYTHON_MINIMUM = (3, 11)
JAVA_MINIMUM = 17
MEMORY_MINIMUM_GIB = 3.0


def python_problem() -> str:
    """Return what is wrong with this Python, or an empty text."""
    if sys.version_info[:2] >= PYTHON_MINIMUM:
        return ""
    found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], PYTHON_MINIMUM))
    return "Python {} found, which is too old: install Python {} or newer.".format(found, wanted)


def java_major_version() -> int:
    """Return the major version of the Java that Spark would start, or 0 if there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=os.path.join(home, "bin")) if home else shutil.which("java")
    if java is None:
        return 0
    process = subprocess.Popen([java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    match = re.search(r'version "(?:1\.)?(\d+)', process.communicate()[0].decode("utf-8", "replace"))
    return int(match.group(1)) if match else 0


def java_problem() -> str:
    """Return what is wrong with this machine's Java, or an empty text."""
    version = java_major_version()
    if version >= JAVA_MINIMUM:
        return ""
    found = (
        "Java {} found, which is too old for Spark".format(version) if version else "no Java found, which Spark runs on"
    )
    package = "for example the package openjdk-17-jre-headless"
    return "{}: install Java {} or newer, {}.".format(found, JAVA_MINIMUM, package)


def available_memory_gib() -> float:
    """Return the memory this process may still take, GiB: the machine's, or its control group's if that is less."""
    with open("/proc/meminfo") as lines:
        kib = dict(line.split(":", 1) for line in lines)["MemAvailable"]
    available = int(kib.split()[0]) * 1024.0
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            available = min(available, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        pass  # no control group, or one without a limit
    return available / 2**30


def memory_problem() -> str:
    """Return what is wrong with the free memory, or an empty text."""
    available = available_memory_gib()
    if available >= MEMORY_MINIMUM_GIB:
        return ""
    return (
        "{:.1f} GiB of free memory found, at least {:g} GiB needed: close other programs or use a machine with at "
        "least 4 GiB.".format(available, MEMORY_MINIMUM_GIB)
    )


def main() -> int:
    """Print the first problem of this machine and return 2, or return 0."""
    for problem in (python_problem(), java_problem(), memory_problem()):
        if problem:
            sys.stderr.write("marspipe: " + problem + "\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
