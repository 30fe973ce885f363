"""Runs and indexes behind HTTP, in OpenAI's form, and a page for people."""
