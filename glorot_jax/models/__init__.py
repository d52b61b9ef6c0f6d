"""The networks: Flax NNX modules that show their layers to the probes."""
