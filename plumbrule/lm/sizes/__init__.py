"""How large a model is and what it takes, known before it is loaded. No torch."""
