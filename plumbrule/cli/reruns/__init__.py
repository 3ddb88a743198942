"""A recorded run composed again, and what differs from then."""
