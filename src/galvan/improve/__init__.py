"""From a diagnosis to a model that works: take the first remedy, try it, judge on documents that chose nothing, go on or stop."""
