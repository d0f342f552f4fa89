"""Views: how strongly they are augmented (recipes), what is done to them (transforms), and the same with a gradient."""
