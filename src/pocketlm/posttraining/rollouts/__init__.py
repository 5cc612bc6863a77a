"""Rollouts: groups sampled and scored, what is drawn, profiles of success, rejection sampling."""
