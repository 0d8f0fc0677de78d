"""Which versions of which models are served: found on disk, loaded, swapped, unloaded while requests go on."""
