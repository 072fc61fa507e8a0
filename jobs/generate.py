"""Generate videos for a list of prompts as a job: the options and the work of `mimir generate`.

On a cluster, from the repository:

    mimir submit generate --address http://HEAD:8265 -- s3://bucket/prompts.jsonl --out s3://bucket/videos --model MODEL

By hand on a machine of the cluster, or on a laptop without a GPU:

    python -m jobs.generate s3://bucket/prompts.jsonl --out s3://bucket/videos --model MODEL
    python -m jobs.generate prompts.txt --out runs/videos
"""

from jobs import run

if __name__ == "__main__":
    run("generate")
