"""Several forms of one model: when the faster one answers, and for which models that was measured. Pure."""
