"""`unified app`: the web app. Jobs, models and tools are plain Python; only pages and server need gradio."""
