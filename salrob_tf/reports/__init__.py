"""Results drawn and written out."""
