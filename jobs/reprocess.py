"""spark-submit entry point: reconstruct anew what is out of date or was never finished.

spark-submit jobs/reprocess.py --catalog postgresql://marspipe@db/marspipe --max-hours 9 --keep 2 --json reprocess.json
"""

import sys

from marspipe.cli import job
from marspipe.cli.reprocess import reprocess

if __name__ == "__main__":
    sys.exit(job(reprocess, "marspipe reprocess"))
