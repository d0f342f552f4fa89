"""Files, seeds, errors, progress, the store: what every room stands on. It knows no model, no parameter, no stage."""
