"""What a DICOM file says of itself before its pixels, by small reads."""

from __future__ import annotations

from typing import Any, BinaryIO, cast

from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from marspipe.dicom.pacs.client import InstanceFacts
from marspipe.dicom.uid import is_uid as is_uid  # others take it from here
from marspipe.errors import InputError

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_AFTER_SERIES_UID = 0x0020000F
_AFTER_NUMBER_OF_FRAMES = 0x00280009


def read_facts(file: BinaryIO, name: str) -> InstanceFacts:
    """Return what matters for sending a file.

    Parameters
    ----------
    file : seekable binary file
        A DICOM file (PS3.10).
    name : str
        Its URI, for messages.

    Raises
    ------
    InputError
        If it is no DICOM file, a UID is missing or not valid, or its two SOP Instance UIDs differ.
    """
    dataset = _read(file, name, _UIDS, _AFTER_SERIES_UID)
    meta = dataset.file_meta
    uids = [_uid(dataset.get(keyword), keyword, name) for keyword in _UIDS]
    syntax_uid = _uid(meta.get("TransferSyntaxUID"), "TransferSyntaxUID", name)
    for keyword, expected in zip(("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID"), uids[:2], strict=True):
        # DIMSE takes the one, the peer's index the other.
        if str(meta.get(keyword, "")) != expected:
            raise InputError(f"{name}: {keyword} of the file and {keyword[12:]} of its data set differ")
    return InstanceFacts(uids[0], uids[1], uids[2], uids[3], syntax_uid)


def read_order(file: BinaryIO, name: str) -> tuple[int, int]:
    """Return the place of an instance in its series (Instance Number, 0 if it has none) and its number of frames.

    Raises
    ------
    InputError
        If it is no DICOM file, or a number is none.
    """
    dataset = _read(file, name, ("InstanceNumber", "NumberOfFrames"), _AFTER_NUMBER_OF_FRAMES)
    try:
        return int(dataset.get("InstanceNumber") or 0), int(dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise InputError(f"{name}: InstanceNumber and NumberOfFrames must be whole numbers") from None


def _read(file: BinaryIO, name: str, keywords: tuple[str, ...], stop_tag: int) -> Any:
    def after(tag: BaseTag, vr: str | None, length: int) -> bool:
        del vr, length
        return int(tag) >= stop_tag

    tags: list[BaseTag | int] = [Tag(cast(int, tag_for_keyword(keyword))) for keyword in keywords]
    try:
        return read_partial(file, stop_when=after, specific_tags=tags)
    except OSError:
        raise
    except Exception:
        # pydicom fails in many ways, and its words may hold values.
        raise InputError(f"{name}: not a DICOM file, or a damaged one") from None


def _uid(value: object, keyword: str, name: str) -> str:
    text = "" if value is None else str(value)
    if not is_uid(text):
        raise InputError(f"{name}: {keyword} is {'not a valid UID' if text else 'missing'}")
    return text
