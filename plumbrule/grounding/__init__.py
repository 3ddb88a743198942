"""What an answer rests on: support by words of its evidence, citations."""
