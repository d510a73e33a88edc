"""Tests of netmgr's pure parts.  No kernel, no libvirtd."""
