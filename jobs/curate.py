"""Curate videos as a job: the options and the work of `mimir curate`.

On a cluster, from the repository:

    mimir submit curate --address http://HEAD:8265 -- /data/raw --out s3://bucket/data --recipe mimir_5b

By hand on a machine of the cluster, or on a laptop without a GPU:

    python -m jobs.curate /data/raw --out s3://bucket/data --recipe mimir_5b
    python -m jobs.curate ~/videos --out runs/mine/data
"""

from jobs import run

if __name__ == "__main__":
    run("curate")
