"""The answer in one command: do generated images help on these images, how many, with how strong an augmentation?"""
