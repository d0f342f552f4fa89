"""The finished encoder, out of the door: features of other pictures, files that other programs load."""
