"""Small networks that look at avatars: which attributes a picture shows, and who is in it."""
