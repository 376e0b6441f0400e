"""Images to logits: the Vision Transformer, ResNet-18, and weights that others trained."""
