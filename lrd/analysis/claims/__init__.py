"""Claims of a study: what they say, the rules that judge them, and what runs say about them."""
