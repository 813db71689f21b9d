"""Engines that run: are they well, where do they compute, what do they say of themselves?"""
