"""A blinded user study from a comparison's pictures: one page to send out, a key to keep, answers to tally."""
