"""The fault benchmark: faults put into real small runs on purpose, and how often galvan's commands name the right one (METHODS S8.4)."""
