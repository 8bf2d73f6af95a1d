from __future__ import annotations

import re
import uuid

from marspipe.dicom.uid import IMPLEMENTATION_CLASS_UID, derived_uid


def test_a_uid_is_a_uuid_below_2_25() -> None:
    text = derived_uid("scan", 3)
    assert re.fullmatch(r"2\.25\.[1-9]\d{1,38}", text)
    value = uuid.UUID(int=int(text.removeprefix("2.25.")))
    assert value.variant == uuid.RFC_4122
    assert value.version == 8


def test_uids_never_change() -> None:
    # Written down once: instances in an archive keep their UIDs when they are exported again by a later version.
    assert derived_uid("study", "scan-42") == "2.25.256428415552471326647260065293376362016"
    assert IMPLEMENTATION_CLASS_UID == "2.25.276829184620069770602258878464396748848"


def test_different_keys_give_different_uids() -> None:
    keys = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("a", 1), ("a", "1"), ("a,b",), ('a","b',)]
    assert len({derived_uid(*key) for key in keys}) == len(keys)
