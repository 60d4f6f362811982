"""What a model knows about its own errors: errors by split, the range of its training, and intervals."""
