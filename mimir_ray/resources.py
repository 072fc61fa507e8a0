"""What the actors of a stage reserve. Imports neither ray nor torch."""

from pydantic import Field

from mimir_ray.config import Config


class ActorPool(Config):
    """The actors of one model: how many there are, what each one reserves, and how much it takes at a time."""

    actors: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, ge=0)
    """An actor computes on one thread or on its GPU. Half a CPU is what it reserves, so that actors which wait for each
    other's shards fit on a machine of two cores together."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs of one actor, fractions included; 0 computes on the CPU."""
    batch: int = Field(ge=1)
    """Clips or texts in one forward pass."""
