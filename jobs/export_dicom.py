"""spark-submit entry point: finished volume -> DICOM series.

spark-submit jobs/export_dicom.py hdfs://nn/scans/scan-42/volume --out hdfs://nn/scans/scan-42/dicom --bin 1
"""

import sys

from marspipe.cli import job
from marspipe.cli.export import export

if __name__ == "__main__":
    sys.exit(job(export, "marspipe export"))
