"""Images on disk: the VOC layout, synthetic shapes, seeded loading, augmentation, previews."""
