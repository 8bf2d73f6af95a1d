"""Where clusters and subjects come from: shipped ones by name, others by path or URI."""

from __future__ import annotations

from pathlib import Path

from marspipe.errors import InputError
from marspipe.pipeline.forecast.cluster import Cluster, parse_cluster
from marspipe.pipeline.forecast.workload import Subject, parse_subject
from marspipe.resources import resource_path
from marspipe.store import storage

CLUSTERS, SUBJECTS = "conf/clusters", "conf/subjects"
DEFAULT_CLUSTER = "this-machine"


def names_in(folder: str) -> list[str]:
    """Return the names of the shipped files of a folder."""
    return sorted(path.stem for path in Path(resource_path(folder)).glob("*.yaml"))


def load_cluster(name_or_uri: str) -> Cluster:
    """Return a shipped cluster by its name, or one by path or URI.

    Raises
    ------
    InputError
        If there is none, or it is wrong.
    """
    uri = name_or_uri
    if name_or_uri in names_in(CLUSTERS):
        uri = str(resource_path(f"{CLUSTERS}/{name_or_uri}.yaml"))
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"{uri}: there is no cluster description; shipped ones are {', '.join(names_in(CLUSTERS))}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: the cluster description cannot be read: {error}") from error
    return parse_cluster(text, uri)


def load_subject(name_or_uri: str) -> Subject:
    """Return a shipped subject by its name, or one by path or URI.

    Raises
    ------
    InputError
        If there is none, or it is wrong.
    """
    uri = name_or_uri
    if name_or_uri in names_in(SUBJECTS):
        uri = str(resource_path(f"{SUBJECTS}/{name_or_uri}.yaml"))
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{uri}: there is no such preset; shipped ones are {', '.join(names_in(SUBJECTS))}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: the preset cannot be read: {error}") from error
    return parse_subject(text, uri)
