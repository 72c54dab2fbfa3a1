"""Real photos of faces: the square that face models were trained on, cut out and put back.

square.py: where the square lies, from eyes and mouth. cut.py, paste.py: taking it out of a picture and putting it
back. detector.py: finding eyes and mouths, with an optional package. align.py: all of it, for files.
"""
