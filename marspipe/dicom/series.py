"""What all instances of a DICOM series share, worked out once from a volume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom import field_of_view
from marspipe.dicom.acquisition import acquisition_elements, required_text
from marspipe.dicom.attributes import patient_and_study, series_and_equipment
from marspipe.dicom.codes import Elements
from marspipe.dicom.compression import TransferSyntax, check_compressible
from marspipe.dicom.decimals import decimal_string
from marspipe.dicom.exposure import recorded_groups, unrecorded
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.multi_energy import multi_energy_elements
from marspipe.dicom.placement import SlicePlacement, slice_placement
from marspipe.dicom.scale import ValueScale, hounsfield_scale, linear_scale
from marspipe.dicom.spectral_map import SpectralMap, spectral_map
from marspipe.dicom.uid import derived_uid
from marspipe.dicom.window import default_window, window_elements
from marspipe.errors import InputError
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid
from marspipe.scan.spectra import linear_attenuation

MAX_SIDE_PX = 65535  # Rows and Columns are 16-bit

ObjectKind = Literal["ct-image", "enhanced-ct", "parametric-map"]
OBJECT_KINDS: tuple[str, ...] = get_args(ObjectKind)
# Series of one study are told apart by number too: bins from 1, maps from 1001, multi-frame objects 100 or 200 above.
_FIRST_NUMBER = {"ct-image": 1, "enhanced-ct": 101, "parametric-map": 201}
_FIRST_MAP_NUMBER = 1000
_PREFIX = {"ct-image": "", "enhanced-ct": "enhanced-", "parametric-map": "parametric-"}


class Slices(Protocol):
    """The slices of one energy bin."""

    def __getitem__(self, z: int, /) -> NDArray[np.float32]: ...


class SourceVolume(Protocol):
    """What an export reads of a volume; :func:`marspipe.open_volume` gives one."""

    @property
    def bins(self) -> Sequence[EnergyBin]: ...  # noqa: D102
    @property
    def grid(self) -> VolumeGrid: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def statistics(self) -> Sequence[Mapping[str, float]]: ...  # noqa: D102
    def __getitem__(self, bin: int, /) -> Slices: ...


@dataclass(frozen=True)
class SeriesHeader:
    """All that the instances of one series have in common. It is small, pickles, and does not show whose scan it is.

    Attributes
    ----------
    bin : int
        Index of the energy bin, or of the map.
    shape : (int, int, int)
        Slices, rows, columns.
    study_uid, series_uid, frame_of_reference_uid, acquisition_uid : str
        Study, frame of reference and acquisition (irradiation event) are those of the scan; the series is this
        reconstruction of this bin as this kind of object.
    scale : ValueScale
        How values are stored.
    placement : SlicePlacement
        Where slices lie.
    elements : dict
        Patient, study, series and equipment, by keyword.
    acquisition, window, multi_energy : dict
        Attributes of tube and geometry, of the first display, and of a map's origin (Supplement 188; empty for bins).
    value_range : (float, float)
        Lowest and highest value of the volume's bin, 1/mm or mg/mL.
    kind : {"ct-image", "enhanced-ct", "parametric-map"}
        What object the series is made of.
    transfer_syntax : {"uncompressed", "jpeg-ls", "jpeg-2000", "rle"}
        How pixels are encoded.
    map : SpectralMap or None
        What a map shows; None for an energy bin.
    padded_beyond_mm : float or None
        Distance from the axis beyond which pixels are padding.
    source_series : tuple of str
        UIDs of CT image series with the same slices that a map was made from.
    """

    bin: int
    shape: tuple[int, int, int]
    study_uid: str = field(repr=False)
    series_uid: str
    frame_of_reference_uid: str
    acquisition_uid: str
    scale: ValueScale
    placement: SlicePlacement
    elements: Elements = field(repr=False)
    acquisition: Elements = field(repr=False)
    window: Elements
    multi_energy: Elements = field(repr=False)
    value_range: tuple[float, float]
    kind: str = "ct-image"
    transfer_syntax: str = "uncompressed"
    map: SpectralMap | None = None
    padded_beyond_mm: float | None = None
    source_series: tuple[str, ...] = ()

    def instance_uid(self, number: int) -> str:
        """Return the SOP Instance UID of a slice, or of a part of a multi-frame object."""
        return slice_uid(self.series_uid, number)

    @property
    def folder(self) -> str:
        """Relative folder of the series' files, such as ``bin-00`` or ``enhanced-map-02``."""
        return f"{_PREFIX[self.kind]}{'bin' if self.map is None else 'map'}-{self.bin:02d}"

    def slice_path(self, z_index: int) -> str:
        """Return the relative path of a slice's file, such as ``bin-00/slice-0012.dcm``; names sort by slice."""
        digits = max(4, len(str(self.shape[0] - 1)))
        return f"{self.folder}/slice-{z_index:0{digits}d}.dcm"

    def outside(self) -> NDArray[np.bool_] | None:
        """Return which pixels of every slice are padding, bool (rows, columns); None if none is."""
        if self.padded_beyond_mm is None:
            return None
        _, *origin = (float(v) for v in self.placement.origin_mm)
        _, *voxel = (float(v) for v in self.placement.voxel_mm)
        return field_of_view.outside(
            self.shape[1:], (origin[0], origin[1]), (voxel[0], voxel[1]), self.padded_beyond_mm
        )

    def check_kind(self, kind: ObjectKind) -> None:
        """Raise an InputError if the series is made of other objects."""
        if self.kind != kind:
            raise InputError(f"the header is that of a series of kind {self.kind!r}, not {kind!r}")

    def check_slice(self, z_index: int) -> None:
        """Raise an InputError if the series has no such slice."""
        if not 0 <= z_index < self.shape[0]:
            raise InputError(f"the series has slices 0 to {self.shape[0] - 1}, got slice {z_index}")

    def check_pixels(self, z_index: int, pixels: NDArray[np.floating]) -> None:
        """Raise an InputError if the pixels are no slice of the series."""
        self.check_slice(z_index)
        _, ny, nx = self.shape
        if pixels.shape != (ny, nx):
            raise InputError(f"slice {z_index} of bin {self.bin} has shape {pixels.shape}, expected {(ny, nx)}")


def slice_uid(series_uid: str, number: int) -> str:
    """Return the SOP Instance UID of an instance of a series."""
    return derived_uid("instance", series_uid, number)


def series_header(
    volume: SourceVolume,
    bin: int,
    identity: SeriesIdentity | None = None,
    *,
    water_attenuation_per_mm: float | None = None,
    window: tuple[float, float] | None = None,
    value_range: tuple[float, float] | None = None,
    transfer_syntax: TransferSyntax = "uncompressed",
    field_of_view_mm: float | None = None,
    kind: ObjectKind = "ct-image",
    sources: Sequence[SeriesHeader] = (),
) -> SeriesHeader:
    """Return what all instances of a series share: of an energy bin, or of a map.

    Parameters
    ----------
    volume : SourceVolume
        The metadata must hold ``scan_id`` and ``recipe_hash``; ``version``, ``description``, ``acquired_at``, ``tube``,
        ``geometry``, ``filter`` and ``redundancy.field_of_view_mm`` are used where present. A volume of maps says what
        they are in ``bins[i].map``, and in ``source_bins`` and ``decomposition`` how they were made; see
        :mod:`marspipe.dicom.spectral_map` and :mod:`marspipe.dicom.multi_energy`.
    bin : int
        Index of the energy bin, or of the map.
    identity : SeriesIdentity, optional
        Patient and study; by default nobody's, with the scan id as patient ID.
    water_attenuation_per_mm : float, optional
        Attenuation of water in this bin, 1/mm: the series is then written in Hounsfield units. That of a monoenergetic
        image is known without it: PS3.3 C.8.2.1.1.1 wants Hounsfield units of them.
    window : (float, float), optional
        Lowest and highest value that a viewer shows at first, in output units. By default the 1st and 99.5th
        percentile of the middle slice, which is read for it.
    value_range : (float, float), optional
        Range that is stored, in the volume's units, see :func:`marspipe.dicom.value_range.robust_range`; voxels beyond
        are clipped and counted. By default the whole range of the bin. Hounsfield units have a range of their own.
    transfer_syntax : {"uncompressed", "jpeg-ls", "jpeg-2000", "rle"}
        How pixels are encoded; all are lossless.
    field_of_view_mm : float, optional
        Radius about the axis that the scan saw: pixels outside are padding. By default what the metadata says.
    kind : {"ct-image", "enhanced-ct", "parametric-map"}
        What object the series is made of: a file per slice, multi-frame files, or multi-frame files of float32 values.
    sources : sequence of SeriesHeader
        CT image series that a map was made from; its slices then refer to theirs.

    Raises
    ------
    InputError
        If the bin does not exist, the metadata lacks what the object needs, or the volume does not fit into one; if an
        Enhanced CT image would not be in Hounsfield units.
    """
    if kind not in OBJECT_KINDS:
        raise InputError(f"kind must be one of {', '.join(OBJECT_KINDS)}, got {kind!r}")
    if kind == "parametric-map" and (transfer_syntax != "uncompressed" or water_attenuation_per_mm is not None):
        raise InputError("a parametric map holds the volume's own float values: no Hounsfield units, uncompressed")
    if not 0 <= bin < len(volume.bins):
        raise InputError(f"the volume has energy bins 0 to {len(volume.bins) - 1}, asked for bin {bin}")
    shape = nz, ny, nx = volume.grid.shape
    if max(ny, nx) > MAX_SIDE_PX or 2 * ny * nx >= 2**32 - 2:
        raise InputError(f"a slice of {ny} x {nx} pixels is too large for a CT image (at most {MAX_SIDE_PX} a side)")
    check_compressible(ny, nx, transfer_syntax)
    if any(source.kind != "ct-image" or source.shape != shape for source in sources):
        raise InputError("the sources of a map must be series of CT images with the same slices")
    identity, metadata = identity or SeriesIdentity(), volume.metadata
    scan_id, recipe_hash = required_text(metadata, "scan_id"), required_text(metadata, "recipe_hash")
    of = spectral_map(metadata, bin)
    statistics = float(volume.statistics[bin]["min"]), float(volume.statistics[bin]["max"])
    scale = _scale(of, kind, value_range, statistics, water_attenuation_per_mm)
    placement = slice_placement(volume.grid)
    radius = field_of_view.field_of_view_mm(metadata) if field_of_view_mm is None else field_of_view_mm
    beyond = field_of_view.padded_beyond_mm(volume.grid, radius)
    study_uid = identity.study_instance_uid or derived_uid("study", scan_id)
    geometry = json.dumps(metadata.get("geometry") or {}, sort_keys=True)
    label = volume.bins[bin].label if of is None else of.label
    number = _FIRST_NUMBER[kind] + bin + (0 if of is None else _FIRST_MAP_NUMBER)
    # Slices of an energy bin leave out what is not known; other objects cannot.
    remark = unrecorded(metadata) if kind == "enhanced-ct" or (of and kind == "ct-image") else ""
    header = SeriesHeader(
        bin=bin,
        shape=shape,
        study_uid=study_uid,
        series_uid=derived_uid(
            *("series", study_uid, scan_id, kind, recipe_hash),
            *(str(metadata.get(name, "")) for name in ("version", "content_hash")),
            *(json.dumps(volume.grid.to_dict(), sort_keys=True), geometry, repr(statistics), bin, label),
            *(repr((scale.slope_text, scale.intercept_text, scale.water_attenuation_per_mm)), repr(beyond)),
        ),
        # A scan whose geometry was calibrated anew lies elsewhere in the world.
        frame_of_reference_uid=derived_uid("frame of reference", study_uid, scan_id, geometry),
        acquisition_uid=derived_uid("acquisition", study_uid, scan_id),
        scale=scale,
        placement=placement,
        elements={
            **patient_and_study(identity, metadata, scan_id),
            **series_and_equipment(identity, metadata, label, scale, number, remark),
        },
        acquisition=_acquisition(kind, of, volume),
        window={},
        multi_energy={} if of is None else multi_energy_elements(metadata, of),
        value_range=statistics,
        kind=kind,
        transfer_syntax=transfer_syntax,
        map=of,
        padded_beyond_mm=beyond,
        source_series=tuple(source.series_uid for source in sources),
    )
    window = window or default_window(volume[bin][nz // 2], header.outside(), scale)
    header.window.update(window_elements(window, scale))
    return header


def _acquisition(kind: str, of: SpectralMap | None, volume: SourceVolume) -> Elements:
    metadata, grid = volume.metadata, volume.grid
    if kind == "ct-image":
        diameter = max(n * d for n, d in zip(grid.shape[1:], grid.voxel_mm[1:], strict=True))
        known = {**acquisition_elements(metadata), "ReconstructionDiameter": decimal_string(diameter)}
        # A map's voltage stands in its multi-energy sequence.
        return known if of is None else {**known, "KVP": ""}
    if kind == "enhanced-ct":
        return recorded_groups(metadata, 0 if of is None else len(metadata.get("source_bins") or ()))
    return {}


def _scale(
    of: SpectralMap | None,
    kind: str,
    value_range: tuple[float, float] | None,
    statistics: tuple[float, float],
    water_attenuation_per_mm: float | None,
) -> ValueScale:
    rescale_type = "MGML" if of is not None and of.kind == "material" else "US"
    if kind == "parametric-map":
        return ValueScale("1", "0", rescale_type)
    if of is not None and of.kind == "monoenergetic" and water_attenuation_per_mm is None:
        water_attenuation_per_mm = float(linear_attenuation("water", of.energy_kev or 0.0))
    # PS3.3 C.8.15.3.10 lets frames that are derived have other units, but validators and viewers take all for HU.
    if kind == "enhanced-ct" and (water_attenuation_per_mm is None or rescale_type == "MGML"):
        raise InputError(
            "frames of an Enhanced CT image are in Hounsfield units: give the attenuation of water in each energy bin, "
            "or write 1/mm and mg/mL as ct-image or parametric-map"
        )
    if water_attenuation_per_mm is None:
        return linear_scale(*(value_range or statistics), rescale_type, clips=value_range is not None)
    if rescale_type == "MGML":
        raise InputError("a map of a material is in mg/mL: the attenuation of water does not apply")
    return hounsfield_scale(water_attenuation_per_mm)
