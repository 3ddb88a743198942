"""Rewards for what a policy does with retrieval: searches, citations, the answer that results."""
