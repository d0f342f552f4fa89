"""Leaven: do generated images help contrastive learning here, how many, and with how strong an augmentation?"""
