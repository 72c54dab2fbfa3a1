"""The methods of the survey as data, and which of them run here.

survey.tsv: one method (or space, or model) a row, facts alone: family, groups of the taxonomy, category, space,
    method, encoder, adapter, backbone, training data, reference. Nothing in it says what this library can do.
links.tsv: what is registered here and which rows of survey.tsv it is; "-" with a note for what is not from there.
terms.tsv: the survey's words for spaces and methods, and the registered names that they stand for.

Whether a method runs is never written down: it is derived from these links and the registries.
"""
