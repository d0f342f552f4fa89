"""A study of eight cells: two arms at two seeds, and a grid of two by two."""

STUDY = """
title: a toy
presets:
  - smoke
base:
  compute:
    threads: 1
  inflation:
    real_weight: 10.0
seed:
  - pretrain.seed
  - augment.seed
parts:
  arms:
    asks: something
    seeds: 2
    against: none
    arms:
      none:
        inflation:
          ratio: 0
          real_weight: 1.0
      some: {}
  grid:
    asks: something else
    seeds: 1
    base:
      pretrain:
        steps: 12
    grid:
      inflation.ratio:
        - 1
        - 2.5
      augment.strength:
        - 1.0
        - 3.0
"""
