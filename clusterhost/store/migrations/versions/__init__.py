"""One module a revision.  A revision that was released is never changed: it says what was, not what is."""
