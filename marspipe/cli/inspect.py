"""``marspipe inspect``: what a scan, a frames table, a volume or a folder of DICOM files holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from marspipe.cli.options import load_recipe, recipe_options

if TYPE_CHECKING:
    from marspipe.pipeline.inspection.look import Look
    from marspipe.scan.geometry import ScanGeometry
    from marspipe.scan.grid import VolumeGrid

_LIST_STEPS = "list"


@click.command()
@click.argument("uri")
@click.option(
    "--picture",
    metavar="PNG",
    help="Draw one frame (of a scan), the preview (of a volume), middle cuts (of DICOM files), or --step.",
)
@click.option("--geometry", "drawing", metavar="PNG", help="Draw the scan: source, detector, field of view, grid.")
@click.option(
    "--step",
    metavar="NAME",
    is_flag=False,
    flag_value=_LIST_STEPS,
    help="Show one correction before and after, on one frame; without a name, list them.",
)
@click.option("--view", default=0, help="View (of other frame types: number) of the frame.")
@click.option("--tile", default=0, help="Camera position of the frame.")
@click.option("--counter", default=0, help="Counter of the frame.")
@click.option("--bin", "bin_", default=0, help="Energy bin, for corrections that come after the bins.")
@click.option("--row", type=int, help="Detector row, for --step stripes; by default the middle one.")
@click.option(
    "--type",
    "frame_type",
    type=click.Choice(["projection", "open_beam", "absorber", "dark"]),
    default="projection",
    help="Type of the frame of --picture.",
)
@click.option("--series", type=int, help="Series to draw, by its number in the list, of DICOM files.")
@click.option("--resample", is_flag=True, help="Draw DICOM slices with uneven spacing or gantry tilt resampled.")
@recipe_options
def inspect(
    uri: str,
    picture: str | None,
    drawing: str | None,
    step: str | None,
    view: int,
    tile: int,
    counter: int,
    bin_: int,
    row: int | None,
    frame_type: str,
    series: int | None,
    resample: bool,
    recipe_uri: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Say what lies at URI: a raw scan, a frames table, a volume or DICOM files. Needs neither Spark nor Java."""
    from marspipe.errors import InputError
    from marspipe.pipeline.inspection.dicom_files import is_dicom
    from marspipe.store.commit import committed

    kind = (committed(uri) or {}).get("kind")
    if kind == "volume":
        _volume(uri, picture, drawing, step, bin_, tile)
        return
    if kind == "dicom" or (kind is None and is_dicom(uri)):
        from marspipe.cli.inspect_dicom import inspect_dicom

        refused = [name for name, value in (("--geometry", drawing), ("--step", step)) if value is not None]
        inspect_dicom(uri, picture=picture, series=series, resample=resample, refused=refused)
        return
    if series is not None or resample:
        raise InputError(f"{uri} holds no DICOM files: --series and --resample are for those")
    from marspipe.cli import inspect_scan as scan
    from marspipe.pipeline.inspection.steps import StepLook, require_step

    scan.refuse_row_without_stripes(step, row)
    if step not in (None, _LIST_STEPS):
        require_step(step)  # before anything is read
    look = _look(uri, table=kind == "frames")
    steps = StepLook(look, load_recipe(recipe_uri, overrides))
    if step == _LIST_STEPS:
        scan.list_steps(steps)
        return
    if step is not None:
        scan.show_step(steps, step, view=view, tile=tile, counter=counter, bin_=bin_, row=row, picture=picture)
        return
    # Before the report, which would hide an error of theirs.
    frame = scan.frame_picture(look, frame_type, view, tile, counter) if picture else None
    name = "frames" if kind == "frames" else "raw scan"
    scan.say([(name, f"{look.scan_id}    {look.uri}")])
    if look.description:
        scan.say([("", look.description)])
    scan.say(scan.report(look, steps))
    if drawing:
        _draw_geometry(look.measured.geometry, None, look.scan_id, drawing)
    if picture and frame is not None:
        scan.write_picture(picture, frame)


def _look(uri: str, *, table: bool) -> Look:
    if table:
        from marspipe.pipeline.frames.scan_frames import FramesTable
        from marspipe.pipeline.inspection.table import TableLook

        return TableLook.of(FramesTable.open(uri, incomplete=True))
    from marspipe.pipeline.frames.raw_scan import open_scan
    from marspipe.pipeline.inspection.raw import RawLook

    scan = open_scan(uri, tolerant=True)
    return RawLook.of(scan, scan.manifest_uri)


def _volume(uri: str, picture: str | None, drawing: str | None, step: str | None, bin_: int, tile: int) -> None:
    from marspipe.cli.inspect_scan import draw_flags, geometry_lines, say, say_flags
    from marspipe.cli.reconstruct import draw_preview
    from marspipe.errors import InputError
    from marspipe.show.scan_report import flag_lines, position_lines
    from marspipe.show.view_angles import angle_lines, survey_angles
    from marspipe.store.volume import open_volume

    volume = open_volume(uri)
    meta = volume.metadata
    positions = [(float(v), float(u)) for v, u in meta.get("camera_positions_mm", [(0.0, 0.0)])]
    if step is not None:
        if step != "bad-pixels":
            raise InputError(f"{uri} is a volume: of its corrections it keeps --step bad-pixels only, not {step!r}")
        if not 0 <= bin_ < len(volume.bins):
            raise InputError(f"--bin must be 0..{len(volume.bins) - 1}, got {bin_}")
        if not 0 <= tile < len(positions):
            raise InputError(f"--tile must be 0..{len(positions) - 1}, got {tile}")
        flags, label = volume.pixel_flags(bin_, tile), volume.bins[bin_].label
        say_flags(flags, label, tile)
        if picture:
            draw_flags(meta["scan_id"], flags, label, tile, picture)
        return
    say([("volume", f"{meta['scan_id']}    {uri}")])
    if meta["description"]:
        say([("", meta["description"])])
    dz, dy, dx = volume.grid.voxel_mm
    say([("grid", f"{volume.shape} voxels (z, y, x) of {dz:.6g} x {dy:.6g} x {dx:.6g} mm")])
    geometry = volume.geometry
    say(geometry_lines(geometry))
    say(position_lines(positions, geometry.detector_shape))
    say(angle_lines(survey_angles(geometry.angles_rad, geometry.source_mm[:, 2])))
    for energy, statistics in zip(volume.bins, volume.statistics, strict=True):
        low, high, mean = (statistics[name] for name in ("min", "max", "mean"))
        say([("bin", f"{energy.label}: {low:.4g} to {high:.4g}, mean {mean:.4g} {volume.units}")])
    say(flag_lines([energy.label for energy in volume.bins], meta.get("bad_pixels")))
    say([("recipe", f"{meta['recipe']['name']} ({meta['recipe_hash']}), marspipe {meta['version']}")])
    say([("corrected", _corrections(meta["recipe"].get("preprocess", {})))])
    say([("weights", meta["redundancy"]["description"])])
    if picture:
        draw_preview(uri, picture)
    if drawing:
        _draw_geometry(geometry, volume.grid, meta["scan_id"], drawing)


def _corrections(preprocess: dict[str, Any]) -> str:
    """Return where the corrections of a recipe are not the usual ones."""
    from marspipe.recipe import Recipe

    usual = _flat(Recipe().model_dump(mode="json")["preprocess"])
    changed = [f"{key} {value}" for key, value in _flat(preprocess).items() if usual.get(key) != value]
    return "as usual" if not changed else f"as usual, but {', '.join(changed)}"


def _flat(section: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {f"{path}{key}": value}
    return flat


def _draw_geometry(geometry: ScanGeometry, grid: VolumeGrid | None, scan_id: str, drawing: str) -> None:
    """Draw a scan with a volume's grid, or with the one that a recipe without a grid would choose."""
    from marspipe.cli.inspect_scan import write_picture
    from marspipe.errors import RecipeError
    from marspipe.pipeline.planning.grid import chosen_grid
    from marspipe.recipe import Recipe
    from marspipe.show.scan_drawing import write_scan_drawing

    if grid is None:
        try:
            grid = chosen_grid(geometry, Recipe())
        except RecipeError as error:
            click.echo(f"grid       none drawn: {error}")
    title = f"Geometry of {scan_id}"
    write_picture(drawing, lambda target: write_scan_drawing(geometry, target, title=title, grid=grid), "geometry")
