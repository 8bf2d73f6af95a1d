"""What ``marspipe inspect`` says and draws of DICOM files."""

from __future__ import annotations

from marspipe.cli.inspect_scan import say, write_picture
from marspipe.errors import InputError
from marspipe.pipeline.inspection.dicom_series import DicomLook, series_title, volume_of
from marspipe.show.series_picture import write_series_picture


def inspect_dicom(uri: str, *, picture: str | None, series: int | None, resample: bool, refused: list[str]) -> None:
    """Say which series lie at a URI, and draw the middle cuts of one.

    Parameters
    ----------
    uri : str
        A DICOM file, or a folder with some below it.
    picture : str, optional
        Where a PNG goes.
    series : int, optional
        Which series to draw, by its number in the list.
    resample : bool
        Whether slices that cannot be stacked as they are may be resampled.
    refused : list of str
        Options that were given but are of other things.
    """
    if refused:
        raise InputError(f"{uri} holds DICOM series: {', '.join(refused)} is of scans and volumes")
    look = DicomLook.of(uri)
    chosen = look.choose(series) if picture or series is not None else None
    if picture is None or chosen is None:
        say(look.report())
        return
    # Before the report, which would hide an error of theirs.
    values, grid, units = volume_of(chosen, resample=resample)
    say(look.report())
    counts, sizes = (" × ".join(f"{v:.5g}" for v in numbers) for numbers in (grid.shape, grid.voxel_mm))
    title = series_title(look.series.index(chosen), chosen)
    subtitle = f"{counts} voxels of {sizes} mm (z, y, x){'; resampled' if resample and chosen.problems else ''}"
    label = "CT number [HU]" if units == "HU" else f"value [{units}]"
    write_picture(picture, lambda target: write_series_picture(values, grid, target, title, subtitle, label=label))
