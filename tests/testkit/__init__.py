"""Test doubles and helpers of the whole project: a scripted engine, real sockets, guards. See README.md."""
