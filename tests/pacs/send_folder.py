"""Send the files of a folder with pynetdicom: ``python -m tests.pacs.send_folder PORT FOLDER``.

pynetdicom's own storescu loses answers now and then (see ``marspipe.dicom.pacs.checkpoint``), stops, and ends with 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydicom import dcmread

from tests.pacs.receive_senders import send

if __name__ == "__main__":
    statuses = send(int(sys.argv[1]), [dcmread(path) for path in sorted(Path(sys.argv[2]).iterdir())])
    sys.exit(f"statuses {sorted(set(statuses))}" if any(statuses) else 0)
