"""Records to batches: draws, crops, samplers, workers, memory."""
