"""How reliable a model is: errors by split, the range of the training data, and intervals."""
