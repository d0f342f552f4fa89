"""Judging an encoder (linear_eval, transfer, finetune), generated images (quality), and the theory's two terms."""
