"""Tests that need programs from the system's packages, and cases shared with unit tests."""
