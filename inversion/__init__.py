"""How concepts become codes: spaces, methods, objectives and the recipes made of them."""
