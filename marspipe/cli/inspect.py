"""``marspipe inspect``: what a scan, a frames table or a volume holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np

if TYPE_CHECKING:
    from marspipe.pipeline.ingest import RawScan
    from marspipe.scan.energy import Counter
    from marspipe.scan.geometry import ScanGeometry
    from marspipe.scan.grid import VolumeGrid


@click.command()
@click.argument("uri")
@click.option("--picture", metavar="PNG", help="Draw one raw frame (of a scan), or the preview (of a volume).")
@click.option("--geometry", "drawing", metavar="PNG", help="Draw the scan: source, detector, field of view, grid.")
@click.option("--view", default=0, help="View of the frame.")
@click.option("--counter", default=0, help="Counter of the frame.")
def inspect(uri: str, picture: str | None, drawing: str | None, view: int, counter: int) -> None:
    """Say what lies at URI: a raw scan, a frames table or a volume. Needs neither Spark nor Java."""
    from marspipe.errors import InputError
    from marspipe.pipeline.ingest import open_scan
    from marspipe.store.commit import committed

    kind = (committed(uri) or {}).get("kind")
    if kind == "volume":
        _volume(uri, picture, drawing)
    elif kind == "frames":
        if picture:
            raise InputError(
                f"{uri}: --picture draws frames of a raw scan and slices of a volume, not of a frames table"
            )
        _frames(uri, drawing)
    else:
        scan = open_scan(uri)
        _scan(scan, drawing)
        if picture:
            _draw_frame(scan, view, counter, picture)


def _scan(scan: RawScan, drawing: str | None) -> None:
    click.echo(f"raw scan   {scan.manifest.scan_id}    {scan.manifest_uri}")
    if scan.manifest.description:
        click.echo(f"           {scan.manifest.description}")
    _geometry(scan.geometry)
    _counters(scan.manifest.camera_counters())
    for file in scan.files:
        size = file.n_exposures * file.exposure_bytes / 2**20
        click.echo(
            f"{file.entry.frame_type:<10} {file.n_exposures} exposures, {size:.1f} MiB of pixels, "
            f"{file.entry.reader}    {file.uri}"
        )
    if drawing:
        _draw_geometry(scan.geometry, None, scan.manifest.scan_id, drawing)


def _frames(uri: str, drawing: str | None) -> None:
    from marspipe.pipeline.scan_frames import FramesTable

    table = FramesTable.open(uri, incomplete=True)
    click.echo(f"frames     {table.scan_id}    {uri}")
    if table.metadata["description"]:
        click.echo(f"           {table.metadata['description']}")
    _geometry(table.geometry)
    _counters(table.counters)
    for group in table.metadata["groups"]:
        click.echo(
            f"{group['frame_type']:<10} counter {group['counter']}: {group['frames']} frames, {group['views']} views"
        )
    click.echo(f"pixels     {table.pixel_bytes / 2**20:.1f} MiB, from {table.metadata['source']}")
    if drawing:
        _draw_geometry(table.geometry, None, table.scan_id, drawing)


def _volume(uri: str, picture: str | None, drawing: str | None) -> None:
    from marspipe.cli.reconstruct import draw_preview
    from marspipe.store.volume import open_volume

    volume = open_volume(uri)
    meta = volume.metadata
    click.echo(f"volume     {meta['scan_id']}    {uri}")
    if meta["description"]:
        click.echo(f"           {meta['description']}")
    dz, dy, dx = volume.grid.voxel_mm
    click.echo(f"grid       {volume.shape} voxels (z, y, x) of {dz:.6g} x {dy:.6g} x {dx:.6g} mm")
    _geometry(volume.geometry)
    for energy, statistics in zip(volume.bins, volume.statistics, strict=True):
        click.echo(
            f"bin        {energy.label}: {statistics['min']:.4g} to {statistics['max']:.4g}, "
            f"mean {statistics['mean']:.4g} {volume.units}"
        )
    click.echo(f"recipe     {meta['recipe']['name']} ({meta['recipe_hash']}), marspipe {meta['version']}")
    click.echo(f"weights    {meta['redundancy']['description']}")
    if picture:
        draw_preview(uri, picture)
    if drawing:
        _draw_geometry(volume.geometry, volume.grid, meta["scan_id"], drawing)


def _geometry(geometry: ScanGeometry) -> None:
    rows, cols = geometry.detector_shape
    pitch_v, pitch_u = geometry.pixel_pitch_mm
    click.echo(f"detector   {rows} x {cols} px of {pitch_v:g} x {pitch_u:g} mm")
    if geometry.orbit is not None:
        orbit = geometry.orbit
        row, column = orbit.principal_point_px
        click.echo(
            f"orbit      source to isocenter {orbit.source_to_isocenter_mm:g} mm, to detector "
            f"{orbit.source_to_detector_mm:g} mm, principal point row {row:g}, column {column:g} px"
        )
    angles = np.rad2deg(geometry.angles_rad)
    steps = np.abs(np.diff(angles))
    text = f"views      {len(angles)}, {angles.min():.6g} to {angles.max():.6g} deg"
    if steps.size:
        text += f", steps {steps.min():.6g} to {steps.max():.6g} deg"
    click.echo(text)


def _draw_geometry(geometry: ScanGeometry, grid: VolumeGrid | None, scan_id: str, drawing: str) -> None:
    """Draw a scan with a volume's grid, or with the one that a recipe without a grid would choose."""
    import io

    from marspipe.errors import RecipeError
    from marspipe.pipeline.plan import chosen_grid
    from marspipe.recipe import Recipe
    from marspipe.show.scan_drawing import write_scan_drawing
    from marspipe.store import storage

    if grid is None:
        try:
            grid = chosen_grid(geometry, Recipe())
        except RecipeError as error:
            click.echo(f"grid       none drawn: {error}")
    page = io.BytesIO()
    write_scan_drawing(geometry, page, title=f"Geometry of {scan_id}", grid=grid)
    storage.write_bytes(drawing, page.getvalue(), overwrite=True)
    click.echo(f"geometry   {drawing}")


def _counters(counters: list[Counter] | tuple[Counter, ...]) -> None:
    ladder = ", ".join(f"{c.index}: {c.mode} above {c.threshold_kev:g} keV" for c in counters)
    click.echo(f"counters   {ladder}")


def _draw_frame(scan: RawScan, view: int, counter: int, picture: str) -> None:
    from marspipe.errors import InputError
    from marspipe.readers import READERS, orient
    from marspipe.show.preview import write_frame_picture
    from marspipe.store import storage

    n_counters = len(scan.manifest.counters)
    if not 0 <= counter < n_counters:
        raise InputError(f"--counter must be 0..{n_counters - 1}, got {counter}")
    for file in scan.files:
        exposure = view - file.first_view
        if file.entry.frame_type == "projection" and 0 <= exposure < file.n_exposures:
            reader = READERS[file.entry.reader]
            with storage.open_input(file.uri) as raw:
                number = exposure * n_counters + counter
                entry = reader.index(raw, file.uri, number, 1, dataset=file.entry.dataset)[0]
                frame = orient(reader.read(raw, entry), file.entry.orientation)
            write_frame_picture(frame, picture, f"{scan.manifest.scan_id}, view {view}, counter {counter}")
            click.echo(f"picture    {picture}")
            return
    raise InputError(f"--view must be 0..{len(scan.angles_rad) - 1}, got {view}")
