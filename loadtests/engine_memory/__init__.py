"""Does an engine hold what the memory plan predicts?"""
