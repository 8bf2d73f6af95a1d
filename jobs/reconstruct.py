"""spark-submit entry point: raw files or frames table -> volume, DICOM series, preview.

spark-submit jobs/reconstruct.py --raw hdfs://nn/scans/scan-42/frames --out hdfs://nn/scans/scan-42 \
    --recipe conf/recipes/default.yaml
"""

import sys

from marspipe.cli import job
from marspipe.cli.reconstruct import reconstruct

if __name__ == "__main__":
    sys.exit(job(reconstruct, "marspipe reconstruct"))
