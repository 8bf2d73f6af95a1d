"""Merlin files of one acquisition as one entry of a manifest: found by a pattern, ordered by sequence numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase

from marspipe.errors import ScanError
from marspipe.readers.manifest import FileEntry, ScanManifest, resolve_uri
from marspipe.readers.merlin_files import MerlinSet, SetFile, survey_files
from marspipe.store import storage


def with_sets(manifest: ScanManifest, manifest_uri: str, *, tolerant: bool) -> ScanManifest:
    """Return a manifest that lists the files of every acquisition one by one.

    Parameters
    ----------
    manifest : ScanManifest
        The manifest.
    manifest_uri : str
        Where it lies.
    tolerant : bool
        Whether files may be missing or cut; the views that they held keep their numbers, and are missing.

    Raises
    ------
    ScanError
        If no file matches, or the files are not one whole acquisition.
    """
    if not any(entry.by_sequence for entry in manifest.files):
        return manifest
    files: list[FileEntry] = []
    for entry in manifest.files:
        files += _listed(entry, manifest_uri, tolerant) if entry.by_sequence else [entry]
    return manifest.model_copy(update={"files": tuple(files)})


def _listed(entry: FileEntry, manifest_uri: str, tolerant: bool) -> Iterator[FileEntry]:
    found = _survey(resolve_uri(entry.path, manifest_uri), manifest_uri)
    faults = [f for f in found.faults if not (tolerant and f.kind in ("gap", "cut"))]
    MerlinSet(found.files, tuple(faults)).check()
    head = found.files[0]
    step = _step(head)
    begins = [(file.head.sequence - head.head.sequence) // step for file in found.files]
    angles = entry.literal_angles()
    heights = None if angles is None else entry.heights_mm(angles.size)
    total = begins[-1] + found.files[-1].survey.exposures
    if angles is not None and (angles.size < total or (angles.size > total and not tolerant)):
        raise ScanError(
            f"{entry.path}: its {len(found.files)} files hold {total} exposures, but {manifest_uri} gives "
            f"{angles.size} angles for them"
        )
    # What is missing behind a file counts as its own: a file that ends too early.
    ends = [*begins[1:], total if angles is None else angles.size]
    for file, begin, end in zip(found.files, begins, ends, strict=True):
        changes: dict[str, object] = {"path": file.uri, "by_sequence": False}
        if angles is not None and heights is not None:
            changes |= {
                "angles_rad": tuple(angles[begin:end].tolist()),
                "sample_z_mm": tuple(heights[begin:end].tolist()),
                "first_view": entry.first_view + begin,
            }
        yield entry.model_copy(update=changes)


def _survey(pattern: str, manifest_uri: str) -> MerlinSet:
    folder, _, name = pattern.rpartition("/")
    try:
        names = [found for found in storage.list_dir(folder or ".") if fnmatchcase(found, name)]
    except FileNotFoundError as error:
        raise ScanError(f"{manifest_uri}: the folder of {pattern} does not exist") from error
    if not names:
        raise ScanError(f"{manifest_uri}: no file matches {pattern}")
    with ExitStack() as opened:
        uris = [storage.join(folder or ".", found) for found in sorted(names)]
        return survey_files((uri, opened.enter_context(storage.open_input(uri))) for uri in uris)


def _step(file: SetFile) -> int:
    """Return by how much the sequence number grows from one exposure to the next: per record, or per exposure."""
    numbers = file.last.sequence - file.head.sequence + 1
    return len(file.survey.counters) if numbers > file.survey.exposures else 1
