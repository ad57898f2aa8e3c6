"""Tests of the two verbs."""
