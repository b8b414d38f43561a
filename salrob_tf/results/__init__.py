"""What is known of each image at each epsilon, compared and kept: NumPy and SciPy only."""
