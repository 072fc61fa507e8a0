"""What a training reads: the tables joined to samples, their order, and batches made of them."""
