"""A sweep as one graph: its cells, their configs and plan, and what they leave."""
