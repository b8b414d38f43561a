"""What a classifier must be, the networks that come along, and one way to call all of them."""
