"""Augmentations: their strength (recipes), the operations (transforms), and the same operations with gradients."""
