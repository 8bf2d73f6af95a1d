"""An environment that holds marspipe as a wheel, and travels as an archive."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.cluster.servers import PROJECT
from tests.lacking import lacking

# Spark brings its own Python library to its containers.
LEFT_OUT = {"pyspark"}


def packed_environment(folder: Path) -> Path:
    """Make a virtual environment of marspipe's wheel and what it requires, and pack it by venv-pack.

    The requirements are taken, file by file, from the environment that runs the tests, so that no index is asked and
    the versions are the tested ones; marspipe itself may be an editable installation there, so its wheel is built.
    """
    environment, archive = folder / "env", folder / "environment.tar.gz"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    wheel = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(PROJECT)]
    done = subprocess.run(wheel, capture_output=True, text=True, check=False)
    if done.returncode:
        lacking("YARN", f"the wheel cannot be built: {done.stderr.strip().splitlines()[-1]}")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    install = [*pip, "--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, *map(str, folder.glob("marspipe-*.whl"))], check=True)
    (wheel_metadata,) = site.glob("marspipe-*.dist-info")
    # The wheel's requirements: an editable installation may remember those of an older checkout.
    found: set[str] = set()
    _add_required(Distribution.at(wheel_metadata), found)
    for package in found:
        _link(distribution(package), site)
    pack = [sys.executable, "-m", "venv_pack", "--quiet", "--compress-level", "1", "--prefix", str(environment)]
    done = subprocess.run([*pack, "--output", str(archive)], capture_output=True, text=True, check=False)
    if done.returncode:
        lacking("YARN", f"venv-pack fails: {done.stderr.strip().splitlines()[-1]}")
    return archive


def _add_required(package: Distribution, found: set[str]) -> None:
    """Add the names of everything that a distribution requires here, extras aside."""
    for line in package.requires or []:
        requirement = Requirement(line)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found and name not in LEFT_OUT:
            found.add(name)
            _add_required(distribution(name), found)


def _link(package: Distribution, site: Path) -> None:
    """Put the files of an installed distribution into another environment."""
    for file in package.files or []:
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # scripts in bin are not needed
        source, target = Path(str(file.locate())), site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file() and not target.exists():
            try:
                os.link(source, target)
            except OSError:  # another file system
                shutil.copy2(source, target)
