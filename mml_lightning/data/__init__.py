"""Files to samples: records, readers, decoders, the flow cache, datasets and loaders."""
