"""CT objects of other scanners: read with tolerance, stacked with none.

A file may lack its preamble or file meta, name the wrong transfer syntax, hold broken sequences, or a codestream that
contradicts its header: what can be repaired soundly is repaired and said as a :class:`ForeignDicomWarning`; the rest is
refused by name. Nothing a file says is believed before it is held against the bytes that are there, and memory is taken
only for pixels that the file can hold.

A series becomes a volume only if its slices stand evenly, upright and once each; uneven spacing and gantry tilt are
named, and resampled where that is asked for, never stacked silently.

Only attributes that describe the image are read. Of the patient's data it is told whether they are there.
"""

from __future__ import annotations


class ForeignDicomWarning(UserWarning):
    """Something in a DICOM file or series was repaired, skipped or resampled."""
