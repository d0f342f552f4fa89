"""Generated images that stand beside each real one, as its positives or in place of its views; a file a kind."""
