"""The headers that came before ``MQ1``: 256 bytes that begin with ``12B`` or ``24B``.

They hold 34 fields: depth, sequence number, counter or color, local time, exposure in ms, two thresholds in keV and 27
DACs, padded with zeros. The size of the image is not among them: they come from read-outs of one whole chip.
"""

from __future__ import annotations

OLD_MAGICS = (b"12B,", b"24B,")
OLD_HEADER_BYTES = 256
N_DACS = 27
_FIELDS = 7 + N_DACS


def modern_fields(fields: list[str]) -> list[str] | None:
    """Return the fields of an old header in the order of an ``MQ1`` header; None if their number is wrong.

    What an old header does not tell is filled in: one whole chip of 256 x 256 pixels, no color mode. The shutter time
    becomes s.
    """
    if len(fields) < _FIELDS:
        return None
    depth, sequence, counter, time, exposure_ms, first, second = fields[:7]
    pixel_type = {"12B": "U16", "24B": "U32"}[depth]
    return [
        "MQ1",
        sequence,
        f"{OLD_HEADER_BYTES:05d}",
        "01",
        "0256",
        "0256",
        pixel_type,
        "1x1",
        "01",
        time,
        _in_s(exposure_ms),
        counter,
        "0",
        "0",
        first,
        second,
        "3RX",
        *fields[7:_FIELDS],
    ]


def _in_s(exposure_ms: str) -> str:
    try:
        return repr(float(exposure_ms) / 1000.0)
    except ValueError:
        return exposure_ms  # the header's own check names it
