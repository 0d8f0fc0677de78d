"""The request log: a sample of what was asked and answered, on disk, to train and judge other models with."""
