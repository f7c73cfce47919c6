"""Any number of images on Ray Data: shards in, a Parquet file for each, to be gone on with."""
