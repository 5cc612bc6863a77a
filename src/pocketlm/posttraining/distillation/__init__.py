"""Distillation: from cached likeliest tokens of a teacher, and on what the student samples itself."""
