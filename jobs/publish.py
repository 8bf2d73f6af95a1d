"""spark-submit entry point: DICOM series -> PACS.

spark-submit jobs/publish.py hdfs://nn/scans/scan-42/dicom --to dicom://PACS@pacs.example:104
"""

import sys

from marspipe.cli import job
from marspipe.cli.publish import publish

if __name__ == "__main__":
    sys.exit(job(publish, "marspipe publish"))
