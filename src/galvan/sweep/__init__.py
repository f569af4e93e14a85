"""Many settings of one recipe: train each, choose by validation documents, judge the chosen one once."""
