"""Results on an object store: written through a folder of this machine, owned by lease, read through a mirror."""
