"""What is spoken over HTTP: the protocols of KServe and of OpenAI, health, metrics, and a page for people."""
