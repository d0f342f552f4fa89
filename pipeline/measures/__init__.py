"""Numbers of features and of images. Nothing here trains anything that lasts."""
