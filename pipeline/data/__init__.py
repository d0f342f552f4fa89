"""Images on disk and in a batch: pictures, data sets, imports, HDF5 shards, the mixture of real and generated ones."""
