"""Fine-tune as a job: the options and the work of `mimir train`.

On a cluster, from the repository:

    mimir submit train --address http://HEAD:8265 -- --data s3://bucket/data --out s3://bucket/train --recipe mimir_5b

By hand on a machine of the cluster, or on a laptop without a GPU:

    python -m jobs.train --data s3://bucket/data --out s3://bucket/train --recipe mimir_5b
    python -m jobs.train --data runs/mine/data --out runs/mine/train
"""

from jobs import run

if __name__ == "__main__":
    run("train")
