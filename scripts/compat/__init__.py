"""Published compatibility: LRDropout around the optimizers of torch and of other packages."""
