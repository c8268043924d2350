"""Networks of the paper. Classifiers take an image's ``shape`` (c, h, w) and the ``classes``."""
