"""Results, their views, records and drawings."""
