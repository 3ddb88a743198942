"""Search calls in a policy's text: how one is found, answered in tokens, and remembered."""
