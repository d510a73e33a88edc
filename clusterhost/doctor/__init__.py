"""Find out what is wrong with a node or a front end, and say how to mend it.  Changes nothing."""
