"""Tests of worlds that other packages bring (`make test-worlds`); without its package each is skipped."""
