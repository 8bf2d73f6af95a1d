"""What ``marspipe receive`` has taken can be published, UIDs with leading zeros too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from marspipe.dicom.pacs.peer import parse_peer
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.receive_senders import instance, receiving, send
from tests.pacs.servers import Orthanc

pytestmark = pytest.mark.usefixtures("anything_may_be_sent")
UIDS = {0x00080018: "1.2.03.4.05", 0x0020000D: "1.2.03", 0x0020000E: "1.2.03.4"}


def with_leading_zeros() -> Dataset:
    dataset = instance(1)
    for tag, value in UIDS.items():
        dataset[tag] = DataElement(tag, "UI", value, validation_mode=config.IGNORE)
    return dataset


def test_uids_with_leading_zeros(
    tmp_path: Path, pacs: Orthanc, url_of: Callable[[Orthanc], str], progress: Progress, hasty: Patience
) -> None:
    with receiving(tmp_path) as receiver:
        assert send(receiver.port, [with_leading_zeros(), instance(2)]) == [0, 0]
        assert receiver.stop() == 0
    done = publish(str(receiver.zone), parse_peer(url_of(pacs)), progress=progress, patience=hasty)
    assert (done.error, done.sent, done.found) == (None, 2, 2)
    assert set(pacs.held()) == {"1.2.03.4.05", str(instance(2).SOPInstanceUID)}
