"""The one training loop, and the one forward pass over many images."""
