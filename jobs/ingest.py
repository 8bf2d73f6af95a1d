"""spark-submit entry point: raw files of a scan -> frames table.

spark-submit jobs/ingest.py --raw hdfs://nn/raw/scan-42 --out hdfs://nn/scans/scan-42/frames
"""

import sys

from marspipe.cli import job
from marspipe.cli.ingest import ingest

if __name__ == "__main__":
    sys.exit(job(ingest, "marspipe ingest"))
