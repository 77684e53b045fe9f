"""The hospital's process: its store, its agent, and what a data manager sees before anything runs."""
