"""What is trained on: the split of one's own frames, samples, and batches of them."""
