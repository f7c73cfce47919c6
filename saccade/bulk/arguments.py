"""What `saccade predict --engine ray` can be asked besides."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BulkArguments:
    """Where and in what pieces Ray works."""

    ray_address: str | None = None
    """With --engine ray: a cluster's address, such as 10.0.0.1:6379, or "auto" for the one of this
    machine. By default RAY_ADDRESS, or else a Ray of this command's own."""
    actors: int | None = None
    """Processes that hold a detector each; by default as many as there are CPUs or GPUs for."""
    gpus_per_actor: float = 0.0
    """0 runs on CPUs; 0.5 lets two detectors share a GPU."""
    cpus_per_actor: float = 1.0
    """Cores, and threads of torch."""
    shard_size: int = 256
    """Images or rows in a piece of work, which is done as a whole or not at all. A tar file is
    always one piece, and so is a row group of a Parquet file."""
    image_column: str | None = None
    """The column of Parquet files that holds images as bytes; by default "image" or "bytes"."""
    key_column: str | None = None
    """The column of Parquet files that names each image; by default its row number does."""
