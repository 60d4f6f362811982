"""The stated reliability of models: errors by split, the range of the training, and intervals."""
