"""Images from anywhere to arrays, and what augmentation makes of them."""
