"""Services over HTTP: their addresses, one bounded request, patience, and replies that are kept."""
