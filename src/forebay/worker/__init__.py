"""The loop that works off jobs: lease, run on the engine, commit, acknowledge."""
