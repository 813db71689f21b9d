"""What crosses sockets: the gateway between real clients and a scripted engine. Files are named by behaviour."""
