"""What only the paper's toy example needs; general code reaches it by names in configs/study."""
