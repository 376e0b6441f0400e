"""How to compute, not what: the device, its precision, several processes."""
