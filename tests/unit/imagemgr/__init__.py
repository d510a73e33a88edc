"""Tests of imagemgr's pure modules."""
