"""Cleaning, counting and judging documents one by one."""
