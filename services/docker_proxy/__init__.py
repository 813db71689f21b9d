"""What stands between the service `engines` and Docker, whose socket is as good as root on the machine.

Python's standard library alone: whatever runs here could run as root there.
"""
