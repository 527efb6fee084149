"""What a run will cost in memory, disk and time, told before it starts, from shapes alone."""
