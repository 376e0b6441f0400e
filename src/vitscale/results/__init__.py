"""What scores say: accuracies with their intervals, tables, curves."""
