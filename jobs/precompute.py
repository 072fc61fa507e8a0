"""Encode clips and captions as a job: the options and the work of `mimir precompute`.

On a cluster, from the repository:

    mimir submit precompute --address http://HEAD:8265 -- --data s3://bucket/data --recipe mimir_5b

By hand on a machine of the cluster, or on a laptop without a GPU:

    python -m jobs.precompute --data s3://bucket/data --recipe mimir_5b
    python -m jobs.precompute --data runs/mine/data
"""

from jobs import run

if __name__ == "__main__":
    run("precompute")
