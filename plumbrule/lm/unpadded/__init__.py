"""Forward passes over real tokens only: padding costs nothing but in attention.

`passes.py` runs them, `attention.py` is where tokens meet, and `wanted_tokens.py` keeps the last
layer to the tokens that somebody reads.
"""
