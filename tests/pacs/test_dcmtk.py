"""DCMTK's movescu and dcmdump as witnesses: from a PACS to our receiver, and nothing is changed on the way."""

from __future__ import annotations

from pathlib import Path

import pydicom

from marspipe.dicom.pacs.peer import parse_peer
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES, SLICES
from tests.pacs.receive_senders import OUR_AE, receiving
from tests.pacs.servers import ORTHANC_AE, Orthanc, run, tool


def dumped(path: Path) -> list[str]:
    """What dcmdump says of a file's data set; all of it, pixels too."""
    said = run([tool("dcmdump"), "-q", "+L", path])
    assert (said.returncode, said.stderr) == (0, "")
    lines = said.stdout.splitlines()
    return lines[lines.index("# Dicom-Data-Set") :]


def test_movescu_lets_a_pacs_send_to_our_receiver(
    pacs: Orthanc, dicom_folder: Path, tmp_path: Path, progress: Progress, never: Patience
) -> None:
    sent = publish(str(dicom_folder), parse_peer(pacs.dicom_url), progress=progress, patience=never)
    assert (sent.error, sent.sent) == (None, N_INSTANCES)
    own = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in (dicom_folder / "bin-01").iterdir()}
    one = pydicom.dcmread(next(iter(own.values())))
    keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={one.StudyInstanceUID}"]
    keys.append(f"SeriesInstanceUID={one.SeriesInstanceUID}")
    with receiving(tmp_path / "receiver", "--allow", f"{ORTHANC_AE}@127.0.0.1") as receiver:
        pacs.put("/modalities/receiver", {"AET": OUR_AE, "Host": "127.0.0.1", "Port": receiver.port})
        try:
            calls = ["-S", "-aec", ORTHANC_AE, "-aem", OUR_AE, "127.0.0.1", str(pacs.dicom_port)]
            said = run([tool("movescu"), *calls, *(word for key in keys for word in ("-k", key))])
        finally:
            pacs.delete("/modalities/receiver")
        assert said.returncode == 0, said.stderr
        assert receiver.stop() == 0
        files = sorted(receiver.zone.rglob("*.dcm"))
    assert [path.stem for path in files] == sorted(own)
    assert len(files) == SLICES
    for path in files:
        assert path.parts[-3:-1] == (one.StudyInstanceUID, one.SeriesInstanceUID)
        told = dumped(path)
        assert any("PixelData" in line for line in told)
        assert told == dumped(own[path.stem])
