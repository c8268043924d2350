"""Networks of the paper. Each takes the data's ``shape`` (c, h, w) and number of ``classes``."""
